// Step 2: from source coordinates to the pixels that are read and what they weigh.
//
// Along each axis a sample reads a window of K neighbouring pixels that exist: K = 1 nearest, 2 bilinear, 4 bicubic.
// Near an edge the window stays inside the image, and each weight goes to the pixel of the window that it belongs to. A
// pixel of the window that is read for no tap has its bit unset. It is left out, not multiplied by 0, as it may be NaN.
// An image that is shorter than the window is copied into memory that is as long as the window; `have` is that size.
//
// Names: w weight, d derivative of the weight by the coordinate, s source coordinate, "beyond" and "outside" what the
// taps outside the image weigh, "whole" a window all of whose pixels are taps.
//
// The formulas are those of `stn_triton/kernels/interpolation.py`.
#pragma once
#include "call.h"
#include "vectors.h"

// A piece of an output row.
template <class T> struct Taps {
  static constexpr int MOST = 1024 / sizeof(T);  // pixels at a time
  alignas(64) Integer<T> at[MOST];    // number of the window's first pixel
  alignas(64) Integer<T> bits[MOST]; // per axis: which pixels of the window are taps, whether the coordinate moves
  alignas(64) T s[3][MOST];          // source coordinates
  alignas(64) T w[3][4][MOST];       // weights
  alignas(64) T d[3][4][MOST];       // their derivatives by the coordinate
  alignas(64) T g[3][MOST];          // derivatives of the loss by the coordinates
  alignas(64) T beyond[MOST];        // with a padding value, and where not whole: the weight of all taps outside,
  alignas(64) T beyond_d[3][MOST];   // and its derivatives
  alignas(64) T outside[MOST];       // the same weight summed over the samples of a result
  bool whole;                        // all bits of all pixels are set,
  bool whole_group[MOST];            // or those of the pixels of a vector

  bool is_whole(int64_t i) const { return whole || whole_group[i / WIDTH<T>]; }
  bool has(int64_t i, int every) const { return whole || (bits[i] & every) == every; }
};

enum { AXIS_BITS = 5, MOVES = 4 };  // bits of an axis; the last one says whether the coordinate moves
constexpr int on_every_axis(int bits, int nd) {
  return bits | (nd >= 2 ? bits << AXIS_BITS : 0) | (nd == 3 ? bits << 2 * AXIS_BITS : 0);
}
template <int K, int ND> constexpr int EVERY_TAP = on_every_axis((1 << K) - 1, ND);
template <int K, int ND> constexpr int EVERY_BIT = on_every_axis(((1 << K) - 1) | 1 << MOVES, ND);
INLINE bool is_tap(int64_t bits, int axis, int k) { return bits >> (axis * AXIS_BITS + k) & 1; }
INLINE bool moves(int64_t bits, int axis) { return is_tap(bits, axis, MOVES); }

constexpr double FAR = 4194304;  // 2^22: beyond it a float32 coordinate has too few bits left for weights

template <class T> INLINE Lanes<T> bounded(Lanes<T> s, T low, T high) {  // NaN: low
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

// The coordinate that is read instead of s: bounded, and never NaN.
// follows: its derivative by s, 1, -1 or 0.
template <class T, int K> INLINE Lanes<T> padded(Lanes<T> s, T size, T align, int padding, Lanes<T>& follows) {
  follows = where<T>(absolute<T>(s) < T(__builtin_inff()), splat<T>(1));
  if (K == 4) {  // Bicubic: padding is applied to the taps (windowed), not to s.
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

// Keys' kernel with A = -0.75 at a distance of at most 2.
template <class T> INLINE void cubic(Lanes<T> away, Lanes<T>& weight, Lanes<T>& slope) {
  constexpr T A = T(-0.75);
  Lanes<T> x = absolute<T>(away);
  Integers<T> near = x <= T(1);
  weight = near ? ((A + 2) * x - (A + 3)) * x * x + T(1) : ((A * x - 5 * A) * x + 8 * A) * x - 4 * A;
  slope = near ? (3 * (A + 2) * x - 2 * (A + 3)) * x : (3 * A * x - 10 * A) * x + 8 * A;
  slope = away < T(0) ? -slope : slope;
}

// The taps of bounded coordinates, one of every axis: whole coordinates, weights, derivatives of these.
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

// The weight of the taps outside the image, along one axis, and its derivative. The weight is 0 where no tap lies
// outside. Where all do, it is exactly 1 and its derivative 0.
template <class T> struct Beyond {
  Lanes<T> weight, slope;
};
template <class T, int K> INLINE Beyond<T> weigh_beyond(const Lanes<T>* at, const Lanes<T>* w, const Lanes<T>* d, Lanes<T> follows, T size) {
  Beyond<T> found = {};
  Integers<T> any = {};
  for (int k = 0; k < K; k++) {
    Integers<T> inside = (at[k] >= T(0)) & (at[k] < size);
    found.weight += where<T>(~inside, w[k]);
    found.slope += where<T>(~inside, d[k] * follows);
    any |= inside;
  }
  return {any ? found.weight : splat<T>(1), where<T>(any, found.slope)};
}

// Taps that may lie outside, as windows that do not: weights, derivatives, first pixel; returns the axis' bits.
// beyond: what is left out, if WEIGHED.
template <class T, int K, bool WEIGHED>
static __attribute__((noinline)) Integers<T> windowed(Lanes<T> s, T size, T have, T align, int padding, Lanes<T>* w, Lanes<T>* d, Lanes<T>& base,
                                                   Beyond<T>* beyond) {
  typedef Lanes<T> V;
  V follows, side, at[K], weight[K], slope[K];
  s = padded<T, K>(s, size, align, padding, follows);
  taps_around<T, K>(s, at, weight, slope);
  base = at[0];
  if constexpr (WEIGHED) *beyond = weigh_beyond<T, K>(at, weight, slope, follows, size);
  if (K == 4 && padding != ZEROS) {
    for (int k = 0; k < K; k++) {
      at[k] = padding == BORDER ? bounded<T>(at[k], 0, size - 1) : reflected<T>(at[k], size, align, side);
      base = at[k] < (k ? base : at[k]) ? at[k] : k ? base : at[k];
    }
  }
  base = bounded<T>(base, 0, have - K);
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

// The weight of all taps outside, summed over the samples of n results; `more`: not the first of them.
template <class T> static void collect_beyond(Taps<T>& t, int n, bool more) {
  for (int i = 0; i < n; i++) t.outside[i] = more ? t.outside[i] + t.beyond[i] : t.beyond[i];
}

// Sums of `samples` samples -> their means with what lies outside, of n results `across` apart, of `channels` that are `apart`.
// The weight is divided, not the value times it: where all samples lie outside the mean is the value to the bit.
template <class T>
static void add_beyond(const Taps<T>& t, int n, double value, T samples, T* to, int64_t across, int64_t channels, int64_t apart) {
  if (samples == 1 && t.whole) return;
  for (int i = 0; i < n; i++) {
    T all = T(value) * (t.outside[i] / samples);
    if (samples == 1 && all == 0) continue;
    for (int64_t c = 0; c < channels; c++) {
      T mean = to[i * across + c * apart] / samples;
      to[i * across + c * apart] = all == 0 ? mean : mean + all;
    }
  }
}

// Writes into t.g the derivatives of that by the coordinates; false if there are none.
template <class T, int ND>
static bool beyond_theta(Taps<T>& t, int n, double value, const T* grad, int64_t across, int64_t channels, int64_t apart) {
  if (t.whole) return false;
  for (int i = 0; i < (n + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T>; i++) {
    bool any = false;
    for (int a = 0; a < ND; a++) any |= i < n && t.beyond_d[a][i] != 0;
    T total = 0;
    for (int64_t c = 0; any && c < channels; c++) total += grad[i * across + c * apart];
    for (int a = 0; a < ND; a++) t.g[a][i] = any && t.beyond_d[a][i] != 0 ? T(value) * t.beyond_d[a][i] * total : 0;
  }
  return true;
}

// The taps of the n coordinates in t.s; lanes up to the next whole vector hold coordinates too. WEIGHED: with what is
// left out, for a padding value; without one that would take as long as the rest.
template <class T, int K, int ND, bool SLOPES, bool WEIGHED>
static void find_taps(Taps<T>& t, int n, const int64_t* have, const Call& call) {
  typedef Lanes<T> V;
  constexpr int L = WIDTH<T>;
  constexpr T margin = K == 4 ? 1 : 0;
  T size[ND], memory[ND], last[ND], align = T(call.align_corners);
  for (int a = 0; a < ND; a++) {
    size[a] = T(call.in[a]), memory[a] = T(have[a]);
    last[a] = have[a] == call.in[a] ? size[a] - 1 - margin : T(-1);  // none is simple in a copy
  }
  int padding = int(call.padding);
  bool every = true;
  for (int i = 0; i < n; i += L) {
    Integers<T> at = {}, bits = {};
    Beyond<T> beyond[ND];
    for (int a = 0; WEIGHED && a < ND; a++) beyond[a] = Beyond<T>();
    for (int a = ND - 1; a >= 0; a--) {
      V s = load<T>(t.s[a] + i), base, taps[K], w[K], d[K];
      if (all((s >= margin) & (K == 1 ? s <= last[a] : s < last[a]))) {
        taps_around<T, K>(s, taps, w, d);
        base = taps[0];
        bits |= EVERY_BIT<K, 1> << (a * AXIS_BITS);
      } else {
        bits |= windowed<T, K, WEIGHED>(s, size[a], memory[a], align, padding, w, d, base, &beyond[a]) << (a * AXIS_BITS);
      }
      at = at * Integer<T>(memory[a]) + __builtin_convertvector(base, Integers<T>);
      for (int k = 0; k < K; k++) {
        store<T>(t.w[a][k] + i, w[k]);
        if (SLOPES) store<T>(t.d[a][k] + i, d[k]);
      }
    }
    if constexpr (WEIGHED) {
      V total = {}, one = splat<T>(1);
      for (int a = 0; a < ND; a++) total += (one - total) * beyond[a].weight;
      store<T>(t.beyond + i, total);
      for (int a = 0; a < ND; a++) {
        V slope = beyond[a].slope;
        for (int b = 0; b < ND; b++) slope = b == a ? slope : slope * (one - beyond[b].weight);
        store<T>(t.beyond_d[a] + i, slope);
      }
    }
    store<Integer<T>, L>(t.at + i, at);
    store<Integer<T>, L>(t.bits + i, bits);
    t.whole_group[i / L] = all(bits == EVERY_BIT<K, ND>);
    every &= t.whole_group[i / L];
  }
  t.whole = every;
}
