// One call of the library, as Python hands it over.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum Transform { AFFINE, ATTENTION, PROJECTIVE, LATTICE };
enum Padding { ZEROS, BORDER, REFLECTION };
enum Storage { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };

// Axes are in the order x, y, z everywhere; in 2-D the z axis has the length 1.
struct Call {
  // input, grad, output, input_gradient: of type `storage`; the others: double if that is, else float.
  const void *input, *grad;
  void *output, *input_gradient;
  const void* theta;  // (N, K, parameters); of a lattice what multiplies its basis, (N, K, functions, 2)
  void* theta_gradient;
  const void* basis;  // of a lattice: (functions, finer output)
  int64_t images, transformers, channels;
  int64_t in[3], out[3];
  int64_t dimensions, transform, taps;  // taps along each axis: 1 nearest, 2 bilinear, 4 bicubic
  int64_t padding, align_corners;
  int64_t samples;  // of an output pixel along each axis; 0: as theta asks for
  int64_t channels_last, storage, parameters, functions;
  int64_t parts;  // of the rows of every result of an image, which are made one by one; 1 unless forward
  // Ragged crops: image n has the transformations order[starts[n]] to order[starts[n + 1] - 1]; else null.
  const int64_t* order;
  const int32_t* starts;
  double padding_value;  // what lies outside, with ZEROS

  bool is_forward() const { return output != nullptr; }
  int64_t bytes_of_number() const { return storage == FLOAT64 ? 8 : storage == FLOAT32 ? 4 : 2; }
  // How many transformations image n has, and their numbers.
  int64_t maps_of(int64_t n) const { return starts ? starts[n + 1] - starts[n] : transformers; }
  int64_t number(int64_t n, int64_t k) const { return starts ? order[starts[n] + k] : n * transformers + k; }
  int64_t pixels_in() const { return in[0] * in[1] * in[2]; }
  int64_t pixels_out() const { return out[0] * out[1] * out[2]; }
};

// Makes parts of images as `next` hands them out; 0, or 1 where memory ran out.
typedef int Worker(const Call& call, int64_t* next);
