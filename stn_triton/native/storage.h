// Loads and stores that convert: between tensors in memory and the rows that steps 1 to 3 of the chain from a call to pixels
// work on. image.cc calls them before and after these steps.
//
// A tensor has its own dtype (S) and layout. A row holds numbers of the computation's type (T), either one channel of
// neighbouring pixels, or pixels whose channels lie side by side.
#pragma once
#include "call.h"
#include "vectors.h"

// A float16 and a bfloat16 as they are stored. The types also select the conversion of their format.
struct Float16 { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

// Vectors of 32-bit words and of 16-bit words.
template <int L> using Words = typename LanesOf<uint32_t, L>::type;
template <int L> using Shorts = typename LanesOf<uint16_t, L>::type;

// widened: stored bits to floats. narrowed: floats to stored bits, rounded to nearest, ties to even.
// The pointer is not read: its type says which format the bits have.
template <int L> INLINE Lanes<float, L> widened(const BFloat16*, Words<L> bits) { return (Lanes<float, L>)(bits << 16); }
template <int L> INLINE Words<L> narrowed(const BFloat16*, Lanes<float, L> v) {
  Words<L> bits = (Words<L>)v;
  Words<L> rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return v != v ? Words<L>{} + 0x7fc0 : rounded;
}
template <int L> INLINE Lanes<float, L> widened(const Float16*, Words<L> bits) {
  typedef Lanes<float, L> V;
  Words<L> sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13, exponent = rest & 0x0f800000;
  rest += (127 - 15) << 23;
  Words<L> infinite = rest + ((128 - 16) << 23);
  V tiny = (V)(rest + (1 << 23)) - 6.103515625e-5f;  // 2^-14: a subnormal half has no implicit leading bit
  rest = exponent == 0x0f800000 ? infinite : exponent == 0 ? (Words<L>)tiny : rest;
  return (V)(rest | sign);
}
template <int L> INLINE Words<L> narrowed(const Float16*, Lanes<float, L> v) {
  typedef Lanes<float, L> V;
  Words<L> bits = (Words<L>)v, sign = bits & 0x80000000u;
  bits ^= sign;
  Words<L> tiny = (Words<L>)((V)bits + 0.5f) - 0x3f000000;  // adding 0.5 rounds to the spacing of subnormal halves
  Words<L> usual = (bits - ((127 - 15) << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
  Words<L> large = bits > 0x7f800000u ? Words<L>{} + 0x7e00 : Words<L>{} + 0x7c00;
  Words<L> all = bits < (113u << 23) ? tiny : bits >= (143u << 23) ? large : usual;
  return all | sign >> 16;
}

// Up to L elements of type S as T; those after the first n are 0.
template <class T, class S, int L> INLINE Lanes<T, L> load_as(const S* p, int64_t n) {
  if constexpr (sizeof(S) == sizeof(T)) {
    return load_some<T, L>(p, n);
  } else {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(p);
    Shorts<L> bits = load_some<uint16_t, L>(from, n);
    return widened<L>(p, __builtin_convertvector(bits, Words<L>));
  }
}
template <class T, class S, int L> INLINE void store_as(S* p, Lanes<T, L> v, int64_t n) {
  if constexpr (sizeof(S) == sizeof(T)) {
    store_some<T, L>(p, v, n);
  } else {
    store_some<uint16_t, L>(reinterpret_cast<uint16_t*>(p), __builtin_convertvector(narrowed<L>(p, v), Shorts<L>), n);
  }
}

// Where the channels of neighbouring pixels lie: element (pixel, channel) is
// p[pixel * pixel_stride + channel * channel_stride].
// before: how many channels of the same pixel lie in memory before p.
struct Layout {
  int64_t pixel_stride, channel_stride, before;
};

// Reads `count` channels, at most L, of n pixels. Pixel i becomes the L numbers at to + i * stride: its channels, divided
// by `divisor`, then zeros.
template <class T, int L, class S>
static void load_pixels(const S* p, Layout lies, int count, int64_t n, T divisor, T* to, int64_t stride) {
  typedef Lanes<T, L> V;
  if (lies.channel_stride == 1) {
    Integers<T, L> there = ::count<T, L>() < T(count);
    for (int64_t i = 0; i < n; i++, p += lies.pixel_stride, to += stride) {
      bool within = lies.pixel_stride * (n - i) - lies.before >= L;  // reading L elements stays inside these pixels
      V v = within ? where<T, L>(there, load_as<T, S, L>(p, L)) : load_as<T, S, L>(p, count);
      store<T, L>(to, divisor == 1 ? v : v / divisor);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += L, p += L, to += L * stride) {
    V row[L];
    int64_t left = n - i;
    for (int c = 0; c < L; c++) row[c] = c < count ? load_as<T, S, L>(p + c * lies.channel_stride, left) : V{};
    transpose<T, L>(row);
    for (int k = 0; k < L && k < left; k++) store<T, L>(to + k * stride, divisor == 1 ? row[k] : row[k] / divisor);
  }
}

// The reverse of load_pixels: writes `count` channels of n pixels.
// alone: memory holds no other channels, so that a store of L lanes may run into the next pixel, which is written after it.
template <class T, int L, class S>
static void store_pixels(const T* from, int64_t stride, Layout lies, int count, bool alone, int64_t n, T divisor, S* p) {
  typedef Lanes<T, L> V;
  if (lies.channel_stride == 1) {
    for (int64_t i = 0; i < n; i++, p += lies.pixel_stride, from += stride) {
      V v = load<T, L>(from);
      bool within = alone && lies.pixel_stride * (n - i) >= L;
      store_as<T, S, L>(p, divisor == 1 ? v : v / divisor, within ? L : count);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += L, p += L, from += L * stride) {
    V row[L];
    int64_t left = n - i;
    for (int k = 0; k < L; k++) {
      row[k] = k < left ? load<T, L>(from + k * stride) : V{};
      if (divisor != 1) row[k] = row[k] / divisor;
    }
    transpose<T, L>(row);
    for (int c = 0; c < count; c++) store_as<T, S, L>(p + c * lies.channel_stride, row[c], left);
  }
}

// A row of n elements of one channel: widen reads it from memory, narrow writes it. Both divide by `divisor`.
template <class T, class S> static void widen(const S* from, int64_t n, T divisor, T* to) {
  constexpr int L = WIDTH<T>;
  for (int64_t i = 0; i < n; i += L) {
    Lanes<T> v = load_as<T, S, L>(from + i, n - i);
    store_some<T>(to + i, divisor == 1 ? v : v / divisor, n - i);
  }
}
template <class T, class S> static void narrow(const T* from, int64_t n, T divisor, S* to) {
  constexpr int L = WIDTH<T>;
  for (int64_t i = 0; i < n; i += L) {
    Lanes<T> v = load_some<T>(from + i, n - i);
    store_as<T, S, L>(to + i, divisor == 1 ? v : v / divisor, n - i);
  }
}
