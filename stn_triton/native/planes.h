// Step 3 of the chain from a call to pixels, for few channels that lie in planes: the sums of equations (1) to (3) over the
// windows that taps.h found. One vector holds neighbouring output pixels of one channel. image.cc calls these functions for
// every piece of an output row.
#pragma once
#include "taps.h"

// The pixels from one row and from one slice of an image in memory to the next, and all pixels of the image.
struct Pitches {
  int64_t row, slice, all;
};

// Calls add(ky, kz, K vectors) for each of the K^(ND-1) rows of the windows of a vector of pixels: vector k holds number k of
// this row in every lane's window. Numbers that are no taps are 0.
template <class T, int K, int ND, class Add>
INLINE void over_windows(const Taps<T>& t, int i, const T* u, Pitches pitches, Add add) {
  constexpr int L = WIDTH<T>;
  bool is_whole = t.is_whole(i);
  Integers<T> bits = load<Integer<T>, L>(t.bits + i);
  for (int kz = 0; kz < (ND == 3 ? K : 1); kz++)
    for (int ky = 0; ky < K; ky++) {
      Lanes<T> window[K];
      load_windows<T, K>(u + kz * pitches.slice + ky * pitches.row, t.at + i, window);
      if (!is_whole) {
        Integers<T> there = bits >> (AXIS_BITS + ky);
        if (ND == 3) there &= bits >> (2 * AXIS_BITS + kz);
        for (int k = 0; k < K; k++) window[k] = where<T>(-((bits >> k) & there & 1), window[k]);
      }
      add(ky, kz, window);
    }
}

// Equation (1): adds up the windows of n pixels, for each channel. With `more` the sum is added to what is there.
template <class T, int K, int ND>
static void planes_forward(const Taps<T>& t, int n, const T* u, Pitches pitches, int channels, T* to,
                           int64_t channel_stride, bool more) {
  typedef Lanes<T> V;
  for (int i = 0; i < n; i += WIDTH<T>)
    for (int c = 0; c < channels; c++) {
      V total = {};
      over_windows<T, K, ND>(t, i, u + c * pitches.all, pitches, [&](int ky, int kz, const V* window) {
        V along = load<T>(t.w[0][0] + i) * window[0];
        for (int k = 1; k < K; k++) along += load<T>(t.w[0][k] + i) * window[k];
        V weight = load<T>(t.w[1][ky] + i);
        if (ND == 3) weight *= load<T>(t.w[2][kz] + i);
        total += weight * along;
      });
      T* at = to + c * channel_stride + i;
      if (more) total += load_some<T>(at, n - i);
      store_some<T>(at, total, n - i);
    }
}

// Equation (3): writes into t.g the derivatives of the loss by the source coordinates, summed over the channels.
// add_derivatives (coordinates.h) takes them on to theta.
template <class T, int K, int ND>
static void planes_coordinate_gradient(Taps<T>& t, int n, const T* u, Pitches pitches, int channels,
                                       const T* grad, int64_t channel_stride) {
  typedef Lanes<T> V;
  constexpr int L = WIDTH<T>;
  for (int i = 0; i < n; i += L) {
    V by[3] = {};
    for (int c = 0; c < channels; c++) {
      V slope[3] = {};
      over_windows<T, K, ND>(t, i, u + c * pitches.all, pitches, [&](int ky, int kz, const V* window) {
        V along = load<T>(t.w[0][0] + i) * window[0], change = load<T>(t.d[0][0] + i) * window[0];
        for (int k = 1; k < K; k++) {
          along += load<T>(t.w[0][k] + i) * window[k];
          change += load<T>(t.d[0][k] + i) * window[k];
        }
        V wy = load<T>(t.w[1][ky] + i), dy = load<T>(t.d[1][ky] + i);
        if (ND == 3) {
          V wz = load<T>(t.w[2][kz] + i), dz = load<T>(t.d[2][kz] + i);
          slope[2] += wy * dz * along;
          wy *= wz, dy *= wz;
        }
        slope[0] += wy * change;
        slope[1] += dy * along;
      });
      V g = load_some<T>(grad + c * channel_stride + i, n - i);
      for (int a = 0; a < ND; a++) by[a] += g * slope[a];
    }
    if (t.is_whole(i) && i + L <= n) {
      for (int a = 0; a < ND; a++) store<T>(t.g[a] + i, by[a]);
      continue;
    }
    Integers<T> taps = count<T>() < T(n - i), bits = load<Integer<T>, L>(t.bits + i);
    for (int a = 0; a < ND; a++) taps &= (bits & ((1 << K) - 1) << (a * AXIS_BITS)) != 0;
    for (int a = 0; a < ND; a++) {
      Integers<T> moving = taps & ((bits & 1 << (a * AXIS_BITS + MOVES)) != 0);
      store<T>(t.g[a] + i, where<T>(moving, by[a]));
    }
  }
}

// The gradient of the input, equation (2), needs two passes. While output pixels are visited, each pixel of the input has
// four sums of its own in memory, one for each of four taps of the windows that begin at this pixel. So an output pixel
// adds to four taps by one vector: one read, one addition, one write. When all output pixels have been visited,
// input_gradient_row adds up the four sums that belong to a pixel; they lie at that pixel and at its neighbours.
// The four taps are a group. For bilinear it is the 2 x 2 window along x and y, and in 3-D there is a second group for the
// other slice. For bicubic it is one row of the window, and there are four groups. Groups add to the same array, each
// shifted by its row or slice. Nearest has one tap and needs one sum.
template <int K> constexpr int SUMS_PER_PIXEL = K == 1 ? 1 : 4;
template <int K, int ND> constexpr int TAP_GROUPS = K == 1 ? 1 : K == 4 ? 4 : ND - 1;

template <class T> using Four = Lanes<T, 4>;

// Writes the four weights of the taps of a group, for n output pixels one after the other.
template <class T, int K, int ND> static void group_weights(const Taps<T>& t, int n, int group, T (*to)[4]) {
  constexpr int L = WIDTH<T>;
  for (int i = 0; i < n; i += L) {
    T by_tap[4][L];
    for (int k = 0; k < 4; k++) {
      Lanes<T> w = K == 2 ? load<T>(t.w[0][k % 2] + i) * load<T>(t.w[1][k / 2] + i)
                          : load<T>(t.w[0][k] + i) * load<T>(t.w[1][group] + i);
      if (K == 2 && ND == 3) w *= load<T>(t.w[2][group] + i);
      store<T>(by_tap[k], w);
    }
    if constexpr (sizeof(T) == 4) {
      for (int l = 0; l < L; l += 4) {
        Four<T> rows[4];
        for (int k = 0; k < 4; k++) rows[k] = load<T, 4>(by_tap[k] + l);
        transpose<T, 4>(rows);
        for (int k = 0; k < 4; k++) store<T, 4>(to[i + l + k], rows[k]);
      }
    } else {
      for (int l = 0; l < L; l++)
        for (int k = 0; k < 4; k++) to[i + l][k] = by_tap[k][l];
    }
  }
}

// The first pass: adds weight times grad to `sums`, which has SUMS_PER_PIXEL numbers for each pixel of the image.
template <class T, int K, int ND>
static void planes_input_gradient(const Taps<T>& t, int n, int group, const T (*weights)[4], const T* grad,
                                  Pitches pitches, T* sums) {
  constexpr int every = EVERY_TAP<K, ND>;
  bool whole = t.whole;
  if constexpr (K == 1) {
    for (int i = 0; i < n; i++)
      if (whole || t.has(i, every)) sums[t.at[i]] += grad[i];
  } else {
    sums += 4 * group * (K == 4 ? pitches.row : pitches.slice);
    for (int i = 0; i < n; i++) {
      T* at = sums + 4 * int64_t(t.at[i]);
      if (whole || t.has(i, every)) {
        store<T, 4>(at, load<T, 4>(at) + grad[i] * load<T, 4>(weights[i]));
        continue;
      }
      int64_t bits = t.bits[i];
      for (int k = 0; k < 4; k++) {
        bool there = K == 2 ? is_tap(bits, 0, k % 2) && is_tap(bits, 1, k / 2) && (ND == 2 || is_tap(bits, 2, group))
                            : is_tap(bits, 0, k) && is_tap(bits, 1, group);
        if (there) at[k] += grad[i] * weights[i][k];
      }
    }
  }
}

// The second pass: writes row y of the gradient of a slice of the input. has(y) says whether the sums of row y were used.
template <class T, int K, class Has>
static void input_gradient_row(const T* sums, Pitches pitches, int64_t y, int64_t n, Has has, T* to) {
  constexpr int S = SUMS_PER_PIXEL<K>;
  const T* here = sums + y * pitches.row * S;
  const T* above = here - pitches.row * S;
  if (!has(y) && !(K == 2 && has(y - 1))) {
    memset(to, 0, n * sizeof(T));
  } else if (K == 1) {
    memcpy(to, here, n * sizeof(T));
  } else if (K == 4) {
    for (int64_t x = 0; x < n; x++) {
      to[x] = here[S * x];
      for (int64_t k = 1; k < 4 && k <= x; k++) to[x] += here[S * (x - k) + k];
    }
  } else {
    // Pixel (x, y) is the first tap of windows that begin at (x, y), the second of those at (x - 1, y), the third of those at
    // (x, y - 1) and the fourth of those at (x - 1, y - 1). A row that was not used counts as 0.
    bool lower = has(y), upper = has(y - 1);
    to[0] = (lower ? here[0] : 0) + (upper ? above[2] : 0);
    int64_t x = 1;
    if (lower && upper && sizeof(T) == 4)
      for (; x + 4 <= n; x += 4) {  // for pixel x + k, s[k] holds the sums of x - 1 in lane 0 and those of x in lane 3
        Four<T> s[4];
        for (int k = 0; k < 4; k++) s[k] = load<T, 4>(here + 4 * (x + k) - 3) + load<T, 4>(above + 4 * (x + k) - 1);
        Four<T> a = shuffle<T, 4, 0, 3, 4, 7>(s[0], s[1]), b = shuffle<T, 4, 0, 3, 4, 7>(s[2], s[3]);
        store<T, 4>(to + x, shuffle<T, 4, 0, 2, 4, 6>(a, b) + shuffle<T, 4, 1, 3, 5, 7>(a, b));
      }
    for (; x < n; x++)
      to[x] = (lower ? here[4 * x] + here[4 * x - 3] : 0) + (upper ? above[4 * x + 2] + above[4 * x - 1] : 0);
  }
}
