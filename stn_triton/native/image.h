// What the steps of one image share: its maps, its memory, and the way from output rows to taps.
#pragma once
#include <stdlib.h>

#include "coordinates.h"
#include "planes.h"
#include "storage.h"

namespace {

constexpr int64_t IN_CACHE = 768 << 10;      // bytes that are read in order before they are read as they come
constexpr int64_t TILE_ROWS = 32;            // of an output, visited in pieces side by side, where an image is larger

struct OutOfMemory {};

// Brings memory into the cache.
INLINE void read_in_order(const void* p, int64_t bytes) {
  uint32_t seen = 0;
  for (int64_t i = 0; i < bytes; i += 64) seen += static_cast<const uint8_t*>(p)[i];
  __asm__ volatile("" : : "r"(seen));  // so that the reads are not left out
}

// Asks for memory that is read, or written, soon. What lies beyond an array may be asked for.
template <int WRITTEN> INLINE void prefetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, WRITTEN);
}

// Memory that grows as it is asked for, whatever it held.
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

struct Buffers {
  Buffer image, sums, row, grad, weights, theta;
};

const char* element(const Call& call, const void* p, int64_t number) {
  return static_cast<const char*>(p) + number * call.bytes_of_number();
}
char* element(const Call& call, void* p, int64_t number) { return static_cast<char*>(p) + number * call.bytes_of_number(); }

// Calls body with a pointer of the type that is stored.
template <class T, class P, class Body> void stored_as(const Call& call, P* p, const Body& body) {
  constexpr bool is_const = std::is_const<P>::value;
  typedef typename std::conditional<is_const, const Half, Half>::type H;
  typedef typename std::conditional<is_const, const Brain, Brain>::type B;
  typedef typename std::conditional<is_const, const T, T>::type W;
  if constexpr (sizeof(T) == 4) {
    if (call.storage == FLOAT16) return body(reinterpret_cast<H*>(p));
    if (call.storage == BFLOAT16) return body(reinterpret_cast<B*>(p));
  }
  body(reinterpret_cast<W*>(p));
}

// What one image needs: its maps, its size in memory, and the steps from output rows to taps.
template <class T, int K, int ND> class Image {
 protected:
  const Call& call_;
  Buffers& buffers_;
  int64_t n_;
  int64_t from_, to_;  // rows of a result, slice after slice: this part of them
  int64_t have_[3];
  Steps steps_;
  Box box_ = {};
  int64_t maps_;  // transformations of this image
  bool weighed_;  // what lies outside has a value, and so a weight
  Taps<T>& t_;
  double* sums_ = nullptr;

  Image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit)
      : call_(call), buffers_(buffers), n_(unit / call.parts), maps_(call.maps_of(n_)), weighed_(call.padding_value != 0), t_(t) {
    int64_t rows = call.out[1] * call.out[2], part = unit % call.parts;
    from_ = rows * part / call.parts, to_ = rows * (part + 1) / call.parts;
    for (int a = 0; a < 3; a++) have_[a] = a < ND && call.in[a] < K ? K : call.in[a];
    steps_ = {have_[0], have_[0] * have_[1], have_[0] * have_[1] * have_[2]};
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

  Map<T> map(int64_t k) const { return map_of<T>(call_, call_.number(n_, k)); }
  // Where the taps of rows [from, to) of a result lie.
  Box box_of_rows(const Map<T>& m, int64_t from, int64_t to) const {
    int64_t rows = call_.out[1], first = from / rows, last = (to - 1) / rows;
    bool within = first == last;  // one slice
    return box_of(m, call_, have_, {{0, within ? from % rows : 0, first}, {call_.out[0], within ? (to - 1) % rows + 1 : rows, last + 1}});
  }
  bool has_windows() const { return have_[0] == call_.in[0] && have_[1] == call_.in[1] && have_[2] == call_.in[2]; }
  bool is_wide() const { return call_.storage == (sizeof(T) == 4 ? FLOAT32 : FLOAT64); }
  T samples_of(const Map<T>& m) const {
    T count = T(m.samples) * T(m.samples);
    return ND == 3 ? count * T(m.samples) : count;
  }
  // What sums of samples are divided by when they are stored: with a padding value they are means before (add_beyond).
  T divisor(const Map<T>& m) const { return weighed_ ? T(1) : samples_of(m); }
  // Numbers of elements before channel c of this image or of result k, and those before a pixel of them.
  int64_t image_at(int64_t c) const { return n_ * call_.channels * call_.pixels_in() + channel(c, call_.pixels_in()); }
  int64_t result_at(int64_t k, int64_t c) const {
    return call_.number(n_, k) * call_.channels * call_.pixels_out() + channel(c, call_.pixels_out());
  }
  int64_t channel(int64_t c, int64_t pixels) const { return call_.channels_last ? c : c * pixels; }
  int64_t pixel(int64_t p) const { return call_.channels_last ? p * call_.channels : p; }
  int64_t pixel_of(const Row& r) const { return (r.z * call_.out[1] + r.y) * call_.out[0] + r.x; }
  Layout layout(int64_t pixels, int64_t c) const {
    return call_.channels_last ? Layout{call_.channels, 1, c} : Layout{1, pixels, 0};
  }

  // Whether so many numbers of each pixel of a box fit the cache.
  bool fits(const Box& box, int64_t numbers) const {
    int64_t pixels = (box.to[0] - box.from[0]) * (box.to[1] - box.from[1]) * (box.to[2] - box.from[2]);
    return pixels * numbers * int64_t(sizeof(T)) <= IN_CACHE;
  }
  // Samples in any direction defeat the processor's own prefetching: the part of the image that is needed is read once
  // in the order of memory, if it fits the cache.
  void read_ahead(const T* u, int64_t stride, int64_t planes, const Box& box) const {
    int64_t across = (box.to[0] - box.from[0]) * stride;
    if (!fits(box, stride * planes)) return;
    for (int64_t c = 0; c < planes; c++)
      for (int64_t z = box.from[2]; z < box.to[2]; z++)
        for (int64_t y = box.from[1]; y < box.to[1]; y++)
          read_in_order(u + (c * steps_.all + z * steps_.slice + y * steps_.row + box.from[0]) * stride, across * int64_t(sizeof(T)));
  }

  // Calls body(row, is outside) for the rows of the output, in pieces; u: what will be read, or null; `stride` numbers of
  // a pixel and as many planes are read or added to. An image that does not fit the cache is visited in tiles.
  template <class Body> void over_rows(const Map<T>& m, const T* u, int64_t stride, int64_t planes, const Body& body) {
    Box box = box_of_rows(m, from_, to_);
    bool tiled = !fits(box, stride * planes) && is_linear(m);
    if (u && !tiled) read_ahead(u, stride, planes, box);
    int64_t across = tiled ? Taps<T>::MOST : call_.out[0], y = from_ % call_.out[1], z = from_ / call_.out[1], down;
    for (int64_t row = from_; row < to_; row += down) {
      int64_t in_slice = call_.out[1] - y, in_part = to_ - row, left = in_slice < in_part ? in_slice : in_part;
      down = !tiled ? 1 : left < TILE_ROWS ? left : TILE_ROWS;
      for (int64_t x = 0; x < call_.out[0]; x += across) {
        int64_t end = x + across < call_.out[0] ? x + across : call_.out[0];
        if (u && tiled) read_ahead(u, stride, planes, box_of(m, call_, have_, {{x, y, z}, {end, y + down, z + 1}}));
        for (int64_t below = 0; below < down; below++) {
          Row r = {x, y + below, z, 0, 0, 0, 0};
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
  template <class Body> void pieces(Row& r, int64_t from, int64_t to, bool outside, const Body& body) {
    for (r.x = from; r.x < to; r.x += r.n) {
      r.n = int(to - r.x < Taps<T>::MOST ? to - r.x : Taps<T>::MOST);
      body(r, outside);
    }
  }
  // Calls body(row, is not the first) with the taps of every sample of the row's pixels.
  template <bool SLOPES, class Body> void over_samples(const Map<T>& m, Row& r, const Body& body) {
    int s = int(m.samples);
    for (r.qz = 0; r.qz < (ND == 3 ? s : 1); r.qz++)
      for (r.qy = 0; r.qy < s; r.qy++)
        for (r.qx = 0; r.qx < s; r.qx++) {
          locate(m, r, call_, t_);
          weighed_ ? find_taps<T, K, ND, SLOPES, true>(t_, r.n, have_, call_)
                   : find_taps<T, K, ND, SLOPES, false>(t_, r.n, have_, call_);
          body(r, r.qx || r.qy || r.qz);
        }
  }
  double* sums(int64_t k) const { return sums_ + k * sums_of(call_); }
  void store_theta() const {
    if (!sums_) return;
    for (int64_t k = 0; k < maps_; k++)
      store_theta_gradient(map(k), call_, call_.number(n_, k), sums(k));
  }
  // Calls body(number of the row in the image, in the copy of it) for the rows that the box holds, or for all.
  template <class Body> void over_image(bool everything, const Body& body) const {
    for (int64_t z = everything ? 0 : box_.from[2]; z < (everything ? call_.in[2] : box_.to[2]); z++)
      for (int64_t y = everything ? 0 : box_.from[1]; y < (everything ? call_.in[1] : box_.to[1]); y++)
        if (y < call_.in[1] && z < call_.in[2]) body(y, z, (z * call_.in[1] + y) * call_.in[0], z * steps_.slice + y * steps_.row);
  }
  void clear(T* sums, int64_t lanes) const {
    for (int64_t z = box_.from[2]; z < box_.to[2]; z++)
      memset(sums + (z * steps_.slice + box_.from[1] * steps_.row) * lanes, 0,
             (box_.to[1] - box_.from[1]) * steps_.row * lanes * sizeof(T));
  }
  bool in_box(int axis, int64_t at) const { return at >= box_.from[axis] && at < box_.to[axis]; }
};

}  // namespace
