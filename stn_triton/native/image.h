// What the three steps of one image share: its maps, its memory, and the loops over its output rows, which go from output
// pixels to taps (steps 1 and 2). image.cc derives from it what needs the channels (step 3).
#pragma once
#include <stdlib.h>

#include "coordinates.h"
#include "planes.h"
#include "storage.h"

namespace {

// Bytes of memory that are read ahead at most, so that they are still in the cache when they are used. The second-level cache
// of an AMD EPYC of the fourth generation is 1 MiB for each core.
constexpr int64_t READ_AHEAD_BYTES = 768 << 10;
// Rows of a tile of the output, where more than that would be read ahead. A tile is one piece of an output row wide (256
// pixels in float32). Tiles of 64 by 64 and 128 by 32 were slower for images slightly larger than READ_AHEAD_BYTES.
constexpr int64_t TILE_ROWS = 32;

struct OutOfMemory {};

// Brings memory into the cache by reading it. 64 bytes are a line of the cache.
INLINE void read_in_order(const void* p, int64_t bytes) {
  uint32_t seen = 0;
  for (int64_t i = 0; i < bytes; i += 64) seen += static_cast<const uint8_t*>(p)[i];
  __asm__ volatile("" : : "r"(seen));  // so that the reads are not left out
}

// Tells the processor that memory will be read, or written, soon. It may lie beyond the end of an array.
template <int WRITTEN> INLINE void prefetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, WRITTEN);
}

// Memory that grows as it is asked for. What it held is lost when it grows.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(p_); }
  template <class T> T* of(int64_t count) {
    int64_t bytes = (count + 32) * int64_t(sizeof(T));
    if (bytes > size_) {
      free(p_);
      p_ = malloc(size_t(bytes));
      size_ = p_ ? bytes : 0;
      if (!p_) throw OutOfMemory();
    }
    return static_cast<T*>(p_);
  }

 private:
  void* p_ = nullptr;
  int64_t size_ = 0;
};

// The memory of one thread, kept from image to image.
struct Buffers {
  Buffer image, sums, row, weights, theta;
};

// Where element `number` of a tensor of the call's dtype lies.
const char* element(const Call& call, const void* p, int64_t number) {
  return static_cast<const char*>(p) + number * call.bytes_of_number();
}
char* element(const Call& call, void* p, int64_t number) { return static_cast<char*>(p) + number * call.bytes_of_number(); }

// Calls body with p as a pointer to the call's dtype.
template <class T, class P, class Body> void stored_as(const Call& call, P* p, const Body& body) {
  constexpr bool is_const = std::is_const<P>::value;
  typedef typename std::conditional<is_const, const Float16, Float16>::type H;
  typedef typename std::conditional<is_const, const BFloat16, BFloat16>::type B;
  typedef typename std::conditional<is_const, const T, T>::type W;
  if constexpr (sizeof(T) == 4) {
    if (call.storage == FLOAT16) return body(reinterpret_cast<H*>(p));
    if (call.storage == BFLOAT16) return body(reinterpret_cast<B*>(p));
  }
  body(reinterpret_cast<W*>(p));
}

// One unit of work (`Worker` in call.h): an image, or forward a part of its output rows. T is the type of the computation, K
// the taps along each axis, ND the dimensions.
template <class T, int K, int ND> class Image {
 protected:
  const Call& call_;
  Buffers& buffers_;
  int64_t n_;               // number of the image
  int64_t from_, to_;       // the output rows of this unit, counted slice after slice
  int64_t memory_size_[3];  // the size of the image in memory: no axis is shorter than a window (taps.h)
  Pitches pitches_;         // of an image of memory_size_
  Box box_ = {};            // the pixels that any output of this unit may read
  int64_t maps_;            // transformations of this image
  bool has_padding_value_;  // whether the padding value is not 0
  Taps<T>& t_;              // the taps of the piece that is worked on
  double* sums_ = nullptr;  // for each map what add_derivatives sums up; null if theta's gradient is not wanted

  Image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit)
      : call_(call), buffers_(buffers), n_(unit / call.row_parts), maps_(call.maps_of(n_)),
        has_padding_value_(call.padding_value != 0), t_(t) {
    int64_t rows = call.out[1] * call.out[2], part = unit % call.row_parts;
    from_ = rows * part / call.row_parts, to_ = rows * (part + 1) / call.row_parts;
    for (int a = 0; a < 3; a++) memory_size_[a] = a < ND && call.in[a] < K ? K : call.in[a];
    pitches_ = {memory_size_[0], memory_size_[0] * memory_size_[1], memory_size_[0] * memory_size_[1] * memory_size_[2]};
    for (int64_t k = 0; k < maps_; k++) {
      Box box = box_of_rows(map(k), from_, to_);
      for (int a = 0; a < 3; a++) {
        if (k == 0 || box.from[a] < box_.from[a]) box_.from[a] = box.from[a];
        if (k == 0 || box.to[a] > box_.to[a]) box_.to[a] = box.to[a];
      }
    }
    if (!call.is_forward() && call.theta_gradient) {
      int64_t count = maps_ * sums_of(call);
      sums_ = buffers.theta.of<double>(count);
      memset(sums_, 0, count * sizeof(double));
    }
  }

  Map<T> map(int64_t k) const { return map_of<T>(call_, call_.map_number(n_, k)); }
  // The pixels of the image that output rows [from, to) may read.
  Box box_of_rows(const Map<T>& m, int64_t from, int64_t to) const {
    int64_t rows = call_.out[1], first = from / rows, last = (to - 1) / rows;
    bool within = first == last;  // one slice
    return box_of(m, call_, memory_size_,
                  {{0, within ? from % rows : 0, first},
                   {call_.out[0], within ? (to - 1) % rows + 1 : rows, last + 1}});
  }
  // Whether the image itself is no shorter than a window along any axis.
  bool holds_windows() const {
    return memory_size_[0] == call_.in[0] && memory_size_[1] == call_.in[1] && memory_size_[2] == call_.in[2];
  }
  // Whether the tensors have the type of the computation, and so need no conversion.
  bool is_stored_as_computed() const { return call_.storage == (sizeof(T) == 4 ? FLOAT32 : FLOAT64); }
  // Samples of an output pixel.
  T samples_of(const Map<T>& m) const {
    T count = T(m.samples) * T(m.samples);
    return ND == 3 ? count * T(m.samples) : count;
  }
  // What sums of samples are divided by when they are stored. With a padding value they are means already (add_padding_value).
  T divisor(const Map<T>& m) const { return has_padding_value_ ? T(1) : samples_of(m); }
  // Elements before channel c of this image, and before channel c of the output of map k. Then, inside an image or output: the
  // elements before a channel, and those before a pixel.
  int64_t image_offset(int64_t c) const {
    return n_ * call_.channels * call_.pixels_in() + channel_offset(c, call_.pixels_in());
  }
  int64_t result_offset(int64_t k, int64_t c) const {
    return call_.map_number(n_, k) * call_.channels * call_.pixels_out() + channel_offset(c, call_.pixels_out());
  }
  int64_t channel_offset(int64_t c, int64_t pixels) const { return call_.channels_last ? c : c * pixels; }
  int64_t pixel_offset(int64_t p) const { return call_.channels_last ? p * call_.channels : p; }
  // The number of a piece's first pixel in the output.
  int64_t first_pixel(const RowPiece& r) const { return (r.z * call_.out[1] + r.y) * call_.out[0] + r.x; }
  Layout layout(int64_t pixels, int64_t c) const {
    return call_.channels_last ? Layout{call_.channels, 1, c} : Layout{1, pixels, 0};
  }

  // Whether a box is small enough to be read ahead, with so many numbers for each pixel.
  bool fits(const Box& box, int64_t numbers) const {
    int64_t pixels = (box.to[0] - box.from[0]) * (box.to[1] - box.from[1]) * (box.to[2] - box.from[2]);
    return pixels * numbers * int64_t(sizeof(T)) <= READ_AHEAD_BYTES;
  }
  // Samples of a turned image are read in an order that defeats the processor's own prefetching. So the part of the image
  // that is needed is read once in the order of memory before, if it is small enough.
  void read_ahead(const T* u, int64_t stride, int64_t planes, const Box& box) const {
    int64_t across = (box.to[0] - box.from[0]) * stride;
    if (!fits(box, stride * planes)) return;
    for (int64_t c = 0; c < planes; c++)
      for (int64_t z = box.from[2]; z < box.to[2]; z++)
        for (int64_t y = box.from[1]; y < box.to[1]; y++)
          read_in_order(u + (c * pitches_.all + z * pitches_.slice + y * pitches_.row + box.from[0]) * stride,
                        across * int64_t(sizeof(T)));
  }

  // Calls body(piece, is outside) for the output rows of this unit, in pieces of rows. A piece that is outside has no tap
  // inside the image. u is the image that will be read, or null if none is; it has `planes` planes of pixels of `stride`
  // numbers. If too much of it is needed to be read ahead at once, the output is visited in tiles.
  template <class Body> void over_row_pieces(const Map<T>& m, const T* u, int64_t stride, int64_t planes, const Body& body) {
    Box box = box_of_rows(m, from_, to_);
    bool tiled = !fits(box, stride * planes) && is_linear(m);
    if (u && !tiled) read_ahead(u, stride, planes, box);
    int64_t across = tiled ? Taps<T>::PIECE_PIXELS : call_.out[0], y = from_ % call_.out[1], z = from_ / call_.out[1], down;
    for (int64_t row = from_; row < to_; row += down) {
      int64_t in_slice = call_.out[1] - y, in_part = to_ - row, left = in_slice < in_part ? in_slice : in_part;
      down = !tiled ? 1 : left < TILE_ROWS ? left : TILE_ROWS;
      for (int64_t x = 0; x < call_.out[0]; x += across) {
        int64_t end = x + across < call_.out[0] ? x + across : call_.out[0];
        if (u && tiled) read_ahead(u, stride, planes, box_of(m, call_, memory_size_, {{x, y, z}, {end, y + down, z + 1}}));
        for (int64_t below = 0; below < down; below++) {
          RowPiece r = {x, y + below, z, 0, 0, 0, 0};
          int64_t first, last;
          span_of(m, r, call_, x, end, &first, &last);
          pieces(r, x, first, true, body);
          pieces(r, first, last, false, body);
          pieces(r, last, end, true, body);
        }
      }
      y += down;
      if (y == call_.out[1]) y = 0, z++;
    }
  }
  // Calls body for the pixels [from, to) of a row, in pieces.
  template <class Body> void pieces(RowPiece& r, int64_t from, int64_t to, bool outside, const Body& body) {
    for (r.x = from; r.x < to; r.x += r.n) {
      r.n = int(to - r.x < Taps<T>::PIECE_PIXELS ? to - r.x : Taps<T>::PIECE_PIXELS);
      body(r, outside);
    }
  }
  // Calls body(piece, is not the first sample) for every sample of the piece's pixels, when its taps are in t_: steps 1 and 2.
  template <bool SLOPES, class Body> void over_samples(const Map<T>& m, RowPiece& r, const Body& body) {
    int s = int(m.samples);
    for (r.qz = 0; r.qz < (ND == 3 ? s : 1); r.qz++)
      for (r.qy = 0; r.qy < s; r.qy++)
        for (r.qx = 0; r.qx < s; r.qx++) {
          locate(m, r, call_, t_);
          has_padding_value_ ? find_taps<T, K, ND, SLOPES, true>(t_, r.n, memory_size_, call_)
                             : find_taps<T, K, ND, SLOPES, false>(t_, r.n, memory_size_, call_);
          body(r, r.qx || r.qy || r.qz);
        }
  }
  double* sums(int64_t k) const { return sums_ + k * sums_of(call_); }
  void store_theta() const {
    if (!sums_) return;
    for (int64_t k = 0; k < maps_; k++)
      store_theta_gradient(map(k), call_, call_.map_number(n_, k), sums(k));
  }
  // Calls body(y, z, pixels before the row in the image, pixels before it in the copy) for the rows of the image that box_
  // holds, or for all.
  template <class Body> void over_image_rows(bool everything, const Body& body) const {
    for (int64_t z = everything ? 0 : box_.from[2]; z < (everything ? call_.in[2] : box_.to[2]); z++)
      for (int64_t y = everything ? 0 : box_.from[1]; y < (everything ? call_.in[1] : box_.to[1]); y++)
        if (y < call_.in[1] && z < call_.in[2])
          body(y, z, (z * call_.in[1] + y) * call_.in[0], z * pitches_.slice + y * pitches_.row);
  }
  // Sets the sums of the rows of box_ to 0; a pixel has `lanes` of them.
  void clear(T* sums, int64_t lanes) const {
    for (int64_t z = box_.from[2]; z < box_.to[2]; z++)
      memset(sums + (z * pitches_.slice + box_.from[1] * pitches_.row) * lanes, 0,
             (box_.to[1] - box_.from[1]) * pitches_.row * lanes * sizeof(T));
  }
  bool in_box(int axis, int64_t at) const { return at >= box_.from[axis] && at < box_.to[axis]; }
};

}  // namespace
