// Step 2 of the chain from a call to pixels: from source coordinates (coordinates.h) to the pixels that are read and their
// weights, which step 3 (planes.h, pixels.h) sums up. Padding and reflection are here. `find_taps`, at the end, is the step.
//
// Along each axis a sample reads a window of K neighbouring pixels that exist: K = 1 nearest, 2 bilinear, 4 bicubic.
// Near an edge the taps would leave the image. The window then stays inside, and each weight goes to the pixel of the window
// that its tap reads: where border padding makes two taps read one pixel, that pixel has the sum of their weights. A pixel
// of the window that no tap reads has its bit in `bits` unset. It is left out of sums, and not multiplied by a weight of 0:
// the pixel may be NaN or infinite, and 0 times that is NaN.
//
// An image that is shorter than a window is copied into memory as long as the window. memory_size is the size of the image
// in memory: of the copy, if there is one.
//
// Names: s is a source coordinate, w the weight of a tap along one axis, d the derivative of w by s. A window is whole if all
// its pixels are taps and all its coordinates move (MOVES, below). `outside` is the weight of the taps outside the image,
// which are left out, or count as the padding value if there is one.
//
// The formulas are those of `stn_triton/kernels/interpolation.py`.
#pragma once
#include "call.h"
#include "vectors.h"

// The taps of a piece of an output row, and what steps 1 and 3 say about the same pixels.
template <class T> struct Taps {
  static constexpr int PIECE_PIXELS = 1024 / sizeof(T);  // pixels of a piece at most; 14 KiB of arrays for bilinear in 2-D
  alignas(64) Integer<T> at[PIECE_PIXELS];    // number of the window's first pixel in the image
  alignas(64) Integer<T> bits[PIECE_PIXELS];  // AXIS_BITS for each axis: which pixels are taps, whether the coordinate moves
  alignas(64) T s[3][PIECE_PIXELS];           // source coordinates, by axis
  alignas(64) T w[3][4][PIECE_PIXELS];        // weights, by axis and number in the window
  alignas(64) T d[3][4][PIECE_PIXELS];        // derivatives of the weights by the coordinate
  alignas(64) T g[3][PIECE_PIXELS];           // derivatives of the loss by the source coordinates, which step 3 writes
  // The next three are used only where there is a padding value.
  alignas(64) T outside_weight[PIECE_PIXELS];    // the weight of all taps outside
  alignas(64) T outside_slope[3][PIECE_PIXELS];  // its derivatives by the source coordinates
  alignas(64) T outside_sum[PIECE_PIXELS];       // outside_weight summed over the samples of an output pixel
  bool whole;                      // whether all windows of the piece are whole
  bool whole_group[PIECE_PIXELS];  // whether all windows of vector number i are whole

  bool is_whole(int64_t i) const { return whole || whole_group[i / WIDTH<T>]; }
  bool has(int64_t i, int every) const { return whole || (bits[i] & every) == every; }
};

// The bits of an axis: bit k < 4 says whether pixel k of the window is a tap. Bit MOVES says whether the coordinate moves: 0
// where padding holds it fast at the image's edge, so that its derivative is 0.
enum { AXIS_BITS = 5, MOVES = 4 };
constexpr int on_every_axis(int bits, int nd) {
  return bits | (nd >= 2 ? bits << AXIS_BITS : 0) | (nd == 3 ? bits << 2 * AXIS_BITS : 0);
}
template <int K, int ND> constexpr int EVERY_TAP = on_every_axis((1 << K) - 1, ND);
template <int K, int ND> constexpr int EVERY_BIT = on_every_axis(((1 << K) - 1) | 1 << MOVES, ND);
INLINE bool is_tap(int64_t bits, int axis, int k) { return bits >> (axis * AXIS_BITS + k) & 1; }
INLINE bool moves(int64_t bits, int axis) { return is_tap(bits, axis, MOVES); }

// 2^22, in pixels or in lengths of the image. Reflection sends everything farther out to pixel 0. From there on float32
// numbers are 0.5 apart or more, too coarse for weights; and reflections counted up to it fit an int32.
constexpr double FAR = 4194304;

// s, moved to the nearest number from low to high; low if s is NaN.
template <class T> INLINE Lanes<T> bounded(Lanes<T> s, T low, T high) {
  s = s > low ? s : splat<T>(low);
  return s < high ? s : splat<T>(high);
}
template <class T> INLINE Lanes<T> absolute(Lanes<T> s) { return s < T(0) ? -s : s; }
template <class T> INLINE Integers<T> is_odd(Lanes<T> i) { return i - 2 * round_down<T>(i * T(0.5)) != T(0); }

// Padding by reflection: s, mirrored at both ends until it lies inside the image. The mirrors are at the centres of the
// outer pixels with align_corners, else at their outer edges.
// side: the derivative of the result by s. It is 1 or -1, and 0 where s is not finite or too far out.
template <class T> INLINE Lanes<T> reflected(Lanes<T> s, T size, T align, Lanes<T>& side) {
  T low = (align - 1) * T(0.5), span = size - align > 0 ? size - align : 1;
  Integers<T> known = absolute<T>(s) < T(FAR) * span;
  Lanes<T> away = where<T>(known, s - low), length = absolute<T>(away);
  Lanes<T> image = round_down<T>(length / span), rest = length - image * span;
  Integers<T> below = rest < T(0), above = rest >= span;
  image = below ? image - T(1) : above ? image + T(1) : image;
  rest = below ? rest + span : above ? rest - span : rest;
  Integers<T> odd = is_odd<T>(image);
  Lanes<T> folded = (odd ? span - rest : rest) + low;
  folded = (s >= T(0)) & (s <= size - 1) ? s : folded;  // inside the image s stays as it is, to the bit
  side = where<T>(known, odd == (away < T(0)) ? splat<T>(1) : splat<T>(-1));
  return size > 1 ? where<T>(known, folded) : Lanes<T>{};
}

// The coordinate that is sampled instead of s. It is bounded and never NaN, so that it converts to an integer.
// follows: its derivative by s, which is 1, -1 or 0.
template <class T, int K> INLINE Lanes<T> padded(Lanes<T> s, T size, T align, int padding, Lanes<T>& follows) {
  follows = where<T>(absolute<T>(s) < T(__builtin_inff()), splat<T>(1));
  if (K == 4) {  // Padding of bicubic moves every tap by itself (find_window), not s.
    if (padding != REFLECTION) return bounded<T>(s, -3, size + 2);
    Integers<T> known = absolute<T>(s) < T(FAR);
    follows = where<T>(known, follows);
    return where<T>(known, s);
  }
  if (padding == ZEROS) return bounded<T>(s, -2, size + 1);
  Lanes<T> side = follows;
  if (padding == REFLECTION) s = reflected<T>(s, size, align, side);
  follows = where<T>((s > T(0)) & (s < size - 1), side);
  return bounded<T>(s, 0, size - 1);
}

// Keys' cubic kernel with A = -0.75, as in PyTorch, and its derivative, at a distance of at most 2.
template <class T> INLINE void cubic(Lanes<T> away, Lanes<T>& weight, Lanes<T>& slope) {
  constexpr T A = T(-0.75);
  Lanes<T> x = absolute<T>(away);
  Integers<T> near = x <= T(1);
  weight = near ? ((A + 2) * x - (A + 3)) * x * x + T(1) : ((A * x - 5 * A) * x + 8 * A) * x - 4 * A;
  slope = near ? (3 * (A + 2) * x - 2 * (A + 3)) * x : (3 * A * x - 10 * A) * x + 8 * A;
  slope = away < T(0) ? -slope : slope;
}

// The K taps of bounded coordinates along one axis: their pixels, weights, and the derivatives of the weights.
template <class T, int K> INLINE void taps_around(Lanes<T> s, Lanes<T>* at, Lanes<T>* w, Lanes<T>* d) {
  Lanes<T> low = round_down<T>(s), rest = s - low;
  if constexpr (K == 1) {  // ties to even
    Integers<T> up = (rest > T(0.5)) | ((rest == T(0.5)) & is_odd<T>(low));
    at[0] = up ? low + T(1) : low;
    w[0] = splat<T>(1);
    d[0] = Lanes<T>{};
  } else if constexpr (K == 2) {
    at[0] = low, at[1] = low + T(1);
    w[0] = T(1) - rest, w[1] = rest;
    d[0] = splat<T>(-1), d[1] = splat<T>(1);
  } else {
    for (int k = 0; k < 4; k++) {
      at[k] = low + T(k - 1);
      cubic<T>(s - at[k], w[k], d[k]);
    }
  }
}

// The weight of the taps outside the image along one axis, and its derivative by the coordinate. Where no tap lies outside,
// both are 0. Where all do, the weight is exactly 1 and the derivative 0.
template <class T> struct OutsideWeight {
  Lanes<T> weight, slope;
};
template <class T, int K>
INLINE OutsideWeight<T> weigh_outside(const Lanes<T>* at, const Lanes<T>* w, const Lanes<T>* d, Lanes<T> follows, T size) {
  OutsideWeight<T> found = {};
  Integers<T> any = {};
  for (int k = 0; k < K; k++) {
    Integers<T> inside = (at[k] >= T(0)) & (at[k] < size);
    found.weight += where<T>(~inside, w[k]);
    found.slope += where<T>(~inside, d[k] * follows);
    any |= inside;
  }
  return {any ? found.weight : splat<T>(1), where<T>(any, found.slope)};
}

// The general case of one axis, where taps may lie outside the image: finds a window inside the image (its first pixel is
// `base`), the weights w of its pixels and their derivatives d. Returns the bits of the axis.
template <class T, int K, bool HAS_PADDING_VALUE>
static __attribute__((noinline)) Integers<T> find_window(Lanes<T> s, T size, T memory_size, T align, int padding,
                                                         Lanes<T>* w, Lanes<T>* d, Lanes<T>& base,
                                                         OutsideWeight<T>* outside) {
  typedef Lanes<T> V;
  V follows, side, at[K], weight[K], slope[K];
  s = padded<T, K>(s, size, align, padding, follows);
  taps_around<T, K>(s, at, weight, slope);
  base = at[0];
  if constexpr (HAS_PADDING_VALUE) *outside = weigh_outside<T, K>(at, weight, slope, follows, size);
  if (K == 4 && padding != ZEROS) {
    for (int k = 0; k < K; k++) {
      at[k] = padding == BORDER ? bounded<T>(at[k], 0, size - 1) : reflected<T>(at[k], size, align, side);
      base = at[k] < (k ? base : at[k]) ? at[k] : k ? base : at[k];
    }
  }
  base = bounded<T>(base, 0, memory_size - K);
  Integers<T> bits = (follows != T(0)) & (Integer<T>(1) << MOVES);
  for (int j = 0; j < K; j++) {
    V all_weight = {}, all_slope = {};
    Integers<T> any = {};
    for (int k = 0; k < K; k++) {
      Integers<T> here = (at[k] == base + T(j)) & (at[k] < size);
      all_weight += where<T>(here, weight[k]);
      all_slope += where<T>(here, slope[k] * follows);
      any |= here;
    }
    w[j] = all_weight, d[j] = all_slope;
    bits |= any & (Integer<T>(1) << j);
  }
  return bits;
}

// Adds outside_weight of one sample of n output pixels to outside_sum; `more` says that it is not their first sample.
template <class T> static void sum_outside_weights(Taps<T>& t, int n, bool more) {
  for (int i = 0; i < n; i++) t.outside_sum[i] = more ? t.outside_sum[i] + t.outside_weight[i] : t.outside_weight[i];
}

// Turns sums of samples into means, and adds the padding value times the mean weight of the taps outside. Pixel i of channel
// c is to[i * pixel_stride + c * channel_stride]. The weight is divided before it is multiplied by the value, so that a
// pixel all of whose taps lie outside is the value to the bit.
template <class T>
static void add_padding_value(const Taps<T>& t, int n, double value, T samples, T* to, int64_t pixel_stride,
                              int64_t channels, int64_t channel_stride) {
  if (samples == 1 && t.whole) return;
  for (int i = 0; i < n; i++) {
    T all = T(value) * (t.outside_sum[i] / samples);
    if (samples == 1 && all == 0) continue;
    for (int64_t c = 0; c < channels; c++) {
      T mean = to[i * pixel_stride + c * channel_stride] / samples;
      to[i * pixel_stride + c * channel_stride] = all == 0 ? mean : mean + all;
    }
  }
}

// Writes into t.g the derivatives of the loss by the coordinates, as far as they come from the padding value. Returns false
// without writing anything if no tap lies outside.
template <class T, int ND>
static bool padding_value_derivatives(Taps<T>& t, int n, double value, const T* grad, int64_t pixel_stride, int64_t channels,
                                      int64_t channel_stride) {
  if (t.whole) return false;
  for (int i = 0; i < (n + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T>; i++) {
    bool any = false;
    for (int a = 0; a < ND; a++) any |= i < n && t.outside_slope[a][i] != 0;
    T total = 0;
    for (int64_t c = 0; any && c < channels; c++) total += grad[i * pixel_stride + c * channel_stride];
    for (int a = 0; a < ND; a++) t.g[a][i] = any && t.outside_slope[a][i] != 0 ? T(value) * t.outside_slope[a][i] * total : 0;
  }
  return true;
}

// Finds the taps of the n coordinates in t.s; lanes up to the next whole vector hold coordinates, too. With SLOPES it finds
// the derivatives of the weights as well. HAS_PADDING_VALUE is a template parameter since forward of few channels took 1.4
// times as long when every call found the weight outside.
template <class T, int K, int ND, bool SLOPES, bool HAS_PADDING_VALUE>
static void find_taps(Taps<T>& t, int n, const int64_t* memory_size, const Call& call) {
  typedef Lanes<T> V;
  constexpr int L = WIDTH<T>;
  constexpr T margin = K == 4 ? 1 : 0;  // pixels of a window before the coordinate
  // From here on all of a window is inside and the coordinate moves. Border and reflection hold a coordinate of exactly 0.
  const T first = K == 2 && call.padding != ZEROS ? std::numeric_limits<T>::min() : margin;
  T size[ND], memory[ND], last[ND], align = T(call.align_corners);
  for (int a = 0; a < ND; a++) {
    size[a] = T(call.in[a]), memory[a] = T(memory_size[a]);
    last[a] = memory_size[a] == call.in[a] ? size[a] - 1 - margin : T(-1);  // no window of a copy takes the simple case
  }
  int padding = int(call.padding);
  bool every = true;
  for (int i = 0; i < n; i += L) {
    Integers<T> at = {}, bits = {};
    OutsideWeight<T> outside[ND];
    for (int a = 0; HAS_PADDING_VALUE && a < ND; a++) outside[a] = OutsideWeight<T>();
    for (int a = ND - 1; a >= 0; a--) {
      V s = load<T>(t.s[a] + i), base, taps[K], w[K], d[K];
      // The simple case: the whole window of every lane lies inside, and every coordinate moves.
      if (all((s >= first) & (K == 1 ? s <= last[a] : s < last[a]))) {
        taps_around<T, K>(s, taps, w, d);
        base = taps[0];
        bits |= EVERY_BIT<K, 1> << (a * AXIS_BITS);
      } else {
        bits |= find_window<T, K, HAS_PADDING_VALUE>(s, size[a], memory[a], align, padding, w, d, base, &outside[a])
                << (a * AXIS_BITS);
      }
      at = at * Integer<T>(memory[a]) + __builtin_convertvector(base, Integers<T>);
      for (int k = 0; k < K; k++) {
        store<T>(t.w[a][k] + i, w[k]);
        if (SLOPES) store<T>(t.d[a][k] + i, d[k]);
      }
    }
    if constexpr (HAS_PADDING_VALUE) {
      V total = {}, one = splat<T>(1);
      for (int a = 0; a < ND; a++) total += (one - total) * outside[a].weight;
      store<T>(t.outside_weight + i, total);
      for (int a = 0; a < ND; a++) {
        V slope = outside[a].slope;
        for (int b = 0; b < ND; b++) slope = b == a ? slope : slope * (one - outside[b].weight);
        store<T>(t.outside_slope[a] + i, slope);
      }
    }
    store<Integer<T>, L>(t.at + i, at);
    store<Integer<T>, L>(t.bits + i, bits);
    t.whole_group[i / L] = all(bits == EVERY_BIT<K, ND>);
    every &= t.whole_group[i / L];
  }
  t.whole = every;
}
