// One call of the library: what Python hands over to be sampled. `Call` in library.py mirrors it field by field.
//
// The chain from a call to pixels, in the order in which it is read best:
//   call.h          the arguments
//   library.cc      what Python calls: it chooses the instruction set and starts the threads
//   vectors.h       the vectors that everything else is written with
//   coordinates.h   step 1: from output pixels to source coordinates; and the derivatives of theta, from those of coordinates
//   taps.h          step 2: from source coordinates to the pixels that are read and their weights; padding, reflection
//   planes.h        step 3 for few channels: the weighted sums of one plane, and their gradients
//   pixels.h        step 3 for many channels: the same with the channels of a pixel side by side
//   storage.h       loads and stores that convert dtypes and layouts
//   image.h         what one image needs for the three steps: its maps, its memory, the loops over its rows
//   image.cc        the three steps of one image, forward and backward, and the choice between planes.h and pixels.h
// The equations that comments refer to, (1) to (4), are those of `stn_triton/kernels/__init__.py`.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum Transform { AFFINE, ATTENTION, PROJECTIVE, LATTICE };
enum Padding { ZEROS, BORDER, REFLECTION };
enum Storage { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };

// Axes are in the order x, y, z everywhere; in 2-D the z axis has the length 1.
// A call is forward, and has an output, or backward, and has a grad and one or both of the gradients.
struct Call {
  // input, grad, output and input_gradient have the dtype `storage`. theta, theta_gradient and basis have the dtype of the
  // computation, which is double for FLOAT64 and float for the other three.
  const void *input, *grad;
  void *output, *input_gradient;
  // The parameters of the transformations, (N, K, parameters). Of a lattice they are instead the coefficients of its basis
  // functions, (N, K, functions, 2), which the host computes from the control points.
  const void* theta;
  void* theta_gradient;
  const void* basis;  // of a lattice: every basis function at every sample, (functions, out[1] * samples, out[0] * samples)
  int64_t images, transformers, channels;  // N, the transformations of an image K, C
  int64_t in[3], out[3];                   // sizes of the input and of the output, in pixels
  int64_t dimensions, transform, taps;  // taps along each axis: 1 nearest, 2 bilinear, 4 bicubic
  int64_t padding, align_corners;
  // An output pixel is the mean of samples * samples samples (in 3-D cubed), for antialiasing; usually 1. With 0 each map
  // decides how many it needs (samples_asked in coordinates.h).
  int64_t samples;
  int64_t channels_last, storage, parameters, functions;
  // The output rows of an image are divided into so many parts, so that several threads can share one image. Backward it
  // is 1, since all rows add to the same gradients.
  int64_t row_parts;
  // Ragged crops: image n has the transformations order[starts[n]] to order[starts[n + 1] - 1]. Otherwise both are null.
  const int64_t* order;
  const int32_t* starts;
  double padding_value;  // the value of pixels outside the image, with ZEROS

  bool is_forward() const { return output != nullptr; }
  int64_t bytes_of_number() const { return storage == FLOAT64 ? 8 : storage == FLOAT32 ? 4 : 2; }
  // How many transformations image n has, and the number of its k-th one in theta and in the output.
  int64_t maps_of(int64_t n) const { return starts ? starts[n + 1] - starts[n] : transformers; }
  int64_t map_number(int64_t n, int64_t k) const { return starts ? order[starts[n] + k] : n * transformers + k; }
  int64_t pixels_in() const { return in[0] * in[1] * in[2]; }
  int64_t pixels_out() const { return out[0] * out[1] * out[2]; }
};

// What every thread runs. A unit of work is one part of the output rows of one image: number image * row_parts + part.
// `next` is the number of the next unit that nobody has taken. Returns 0, or 1 where memory ran out.
typedef int Worker(const Call& call, int64_t* next);
