// Step 3 of the chain from a call to pixels, for many channels, or few ones in channels_last: the sums of equations (1) to (3)
// with the channels of a pixel side by side. One vector holds L channels of one pixel. image.cc brings planes into this form
// and calls these functions for every piece of an output row.
//
// `stride` is how many numbers lie between a pixel and the next one.
#pragma once
#include "coordinates.h"
#include "planes.h"

// The taps of one output pixel: their offsets in elements, weights, and derivatives of the weights by each coordinate.
template <class T, int K, int ND> struct PixelTaps {
  static constexpr int WINDOW = ND == 3 ? K * K * K : K * K;  // pixels of a window
  int64_t at[WINDOW];
  T w[WINDOW], d[3][WINDOW];
};
// Where the pixels of a window lie: their offsets in elements from its first pixel.
template <int K, int ND> INLINE void offsets(Pitches pitches, int64_t stride, int64_t* to) {
  for (int k = 0; k < (ND == 3 ? K * K * K : K * K); k++)
    to[k] = (k / (K * K) * pitches.slice + k / K % K * pitches.row + k % K) * stride;
}

// Calls body(taps, their number) for output pixel i. If all pixels of the window are taps, the number is a compile-time
// constant, which lets loops over taps be unrolled.
template <class T, int K, int ND, bool SLOPES, class Body>
INLINE void with_taps(const Taps<T>& t, int i, const int64_t* at, Body body) {
  PixelTaps<T, K, ND> taps;
  int64_t bits = t.bits[i];
  auto add = [&](int k, int to) {
    int x = k % K, y = k / K % K, z = k / (K * K);
    T wx = t.w[0][x][i], wy = t.w[1][y][i], wz = ND == 3 ? t.w[2][z][i] : T(1), row = ND == 3 ? wy * wz : wy;
    taps.at[to] = at[k];
    taps.w[to] = wx * row;
    if (!SLOPES) return;
    T slope = t.d[1][y][i];
    taps.d[0][to] = t.d[0][x][i] * row;
    taps.d[1][to] = wx * (ND == 3 ? slope * wz : slope);
    if (ND == 3) taps.d[2][to] = wx * wy * t.d[2][z][i];
  };
  if (t.has(i, EVERY_TAP<K, ND>)) {
    for (int k = 0; k < taps.WINDOW; k++) add(k, k);
    body(taps, std::integral_constant<int, taps.WINDOW>());
  } else {
    int count = 0;
    for (int k = 0; k < taps.WINDOW; k++)
      if (is_tap(bits, 0, k % K) && is_tap(bits, 1, k / K % K) && (ND == 2 || is_tap(bits, 2, k / (K * K)))) add(k, count++);
    body(taps, count);
  }
}

// Whether a vector holds two pixels of L channels. Two neighbours of a window are then read by one load.
template <class T, int K, int L> constexpr bool TWO_PIXELS_A_VECTOR = K > 1 && 2 * L == WIDTH<T>;

// Of the weights or their derivatives at output pixel i: number 2k in the lanes of the first pixel of a vector of two pixels,
// number 2k + 1 in those of the second.
template <class T> INLINE Lanes<T> pair(const T (*numbers)[Taps<T>::PIECE_PIXELS], int k, int i) {
  return count<T>() < T(WIDTH<T> / 2) ? splat<T>(numbers[2 * k][i]) : splat<T>(numbers[2 * k + 1][i]);
}
// Calls body(offset, weight, slopes) for the rows of a whole window: the offset of the row's first pixel in elements, the
// weight of the row along y and z, and the derivatives of that weight by each coordinate.
template <class T, int K, int ND, class Body>
INLINE void over_window_rows(const Taps<T>& t, int i, Pitches pitches, int64_t stride, Body body) {
  for (int kz = 0; kz < (ND == 3 ? K : 1); kz++)
    for (int ky = 0; ky < K; ky++) {
      T wy = t.w[1][ky][i], wz = ND == 3 ? t.w[2][kz][i] : T(1);
      T slopes[3] = {0, t.d[1][ky][i] * wz, ND == 3 ? wy * t.d[2][kz][i] : 0};
      body((kz * pitches.slice + ky * pitches.row) * stride, wy * wz, slopes);
    }
}
// Two neighbouring pixels of L numbers each. With THREE_AS_FOUR they have three numbers in memory, and the fourth lane of each
// holds the first number of the pixel after it, which is not used.
template <class T, int L, bool THREE_AS_FOUR> INLINE Lanes<T> two_pixels(const T* p) {
  Lanes<T> v = load<T>(p);
  if constexpr (THREE_AS_FOUR) return shuffle<T, 8, 0, 1, 2, 3, 3, 4, 5, 6>(v, v);
  return v;
}
// Equation (1) for a whole window whose first pixel is at p.
template <class T, int K, int ND, int L, bool THREE_AS_FOUR>
INLINE Lanes<T, L> sample_in_pairs(const Taps<T>& t, int i, const T* p, Pitches pitches) {
  constexpr int STRIDE = THREE_AS_FOUR ? L - 1 : L;
  Lanes<T> rows[K / 2] = {}, both = {};
  over_window_rows<T, K, ND>(t, i, pitches, STRIDE, [&](int64_t at, T weight, const T*) {
    for (int k = 0; k < K / 2; k++) rows[k] += weight * two_pixels<T, L, THREE_AS_FOUR>(p + at + 2 * k * STRIDE);
  });
  for (int k = 0; k < K / 2; k++) both += pair<T>(t.w[0], k, i) * rows[k];
  return low<T>(both) + high<T>(both);
}
// Equation (3) for the same window, before the channels are summed: its derivatives by the coordinates, times `grad`.
template <class T, int K, int ND, int L>
INLINE void slopes_in_pairs(const Taps<T>& t, int i, const T* p, Pitches pitches, Lanes<T, L> grad, Lanes<T, L>* total) {
  Lanes<T> both[ND] = {}, some = twice<T>(grad);
  over_window_rows<T, K, ND>(t, i, pitches, L, [&](int64_t at, T weight, const T* slopes) {
    for (int k = 0; k < K / 2; k++) {
      Lanes<T> row = load<T>(p + at + 2 * k * L);
      both[0] += weight * row * pair<T>(t.d[0], k, i);
      for (int a = 1; a < ND; a++) both[a] += slopes[a] * row * pair<T>(t.w[0], k, i);
    }
  });
  for (int a = 0; a < ND; a++) both[a] *= some, total[a] = low<T>(both[a]) + high<T>(both[a]);
}

// Calls body(c, done) for groups of L channels, from c on, that cover all `channels`; there are at least L. If their number is
// no multiple of L, the last group overlaps the one before: its first `done` channels were done there.
template <int L, class Body> INLINE void over_channel_groups(int64_t channels, Body body) {
  if (channels == L) return body(0, 0);
  int64_t c = 0;
  for (; c + L <= channels; c += L) body(c, 0);
  if (c < channels) body(channels - L, int(L - (channels - c)));
}

// Equation (1) for n output pixels. With `more` the sum is added to what is there. With THREE_AS_FOUR, where L is 4, pixels
// have three elements in memory. Each is stored with one element too many, which the next pixel replaces.
template <class T, int K, int ND, int L, bool THREE_AS_FOUR>
static void pixels_forward(const Taps<T>& t, int n, const T* u, Pitches pitches, int64_t stride, int64_t channels, T* to,
                           bool more) {
  typedef Lanes<T, L> V;
  int64_t at[PixelTaps<T, K, ND>::WINDOW];
  offsets<K, ND>(pitches, stride, at);
  for (int i = 0; i < n; i++, to += stride) {
    const T* p = u + t.at[i] * stride;
    auto put = [&](int64_t c, V total) {
      if (THREE_AS_FOUR && i == n - 1) store_some<T, L>(to, total, L - 1);
      else store<T, L>(to + c, more ? load<T, L>(to + c) + total : total);
    };
    if constexpr (TWO_PIXELS_A_VECTOR<T, K, L>)
      if (t.has(i, EVERY_TAP<K, ND>)) {
        put(0, sample_in_pairs<T, K, ND, L, THREE_AS_FOUR>(t, i, p, pitches));
        continue;
      }
    with_taps<T, K, ND, false>(t, i, at, [&](const PixelTaps<T, K, ND>& taps, auto count) {
      over_channel_groups<L>(channels, [&](int64_t c, int) {
        V total = {};
        for (int k = 0; k < count; k++) total += taps.w[k] * load<T, L>(p + taps.at[k] + c);
        put(c, total);
      });
    });
  }
}

// v with 0 in the lanes that over_channel_groups did before.
template <class T, int L> INLINE Lanes<T, L> new_lanes(Lanes<T, L> v, int done) {
  return done ? where<T, L>(count<T, L>() >= T(done), v) : v;
}

// Equations (3) and (4) for a row: adds to `sums` the derivatives by the numbers of the map. Of linear maps the sums over a row
// stay in vectors of channels; other maps go through t.g and add_derivatives (coordinates.h).
template <class T, int K, int ND, int L>
static void pixels_theta_gradient(Taps<T>& t, const Map<T>& m, const RowPiece& r, const Call& call, const T* u, Pitches pitches,
                         int64_t stride, int64_t channels, const T* grad, double* sums) {
  typedef Lanes<T, L> V;
  int64_t at[PixelTaps<T, K, ND>::WINDOW];
  offsets<K, ND>(pitches, stride, at);
  bool linear = is_linear(m);
  Along<T> along(m, r);
  V by[3] = {}, by_dx[3] = {};
  for (int i = 0; i < r.n; i++) {
    const T* p = u + t.at[i] * stride;
    const T* g = grad + i * stride;
    V total[3] = {};
    if (TWO_PIXELS_A_VECTOR<T, K, L> && t.has(i, EVERY_TAP<K, ND>)) {
      if constexpr (TWO_PIXELS_A_VECTOR<T, K, L>) slopes_in_pairs<T, K, ND, L>(t, i, p, pitches, load<T, L>(g), total);
    } else {
      with_taps<T, K, ND, true>(t, i, at, [&](const PixelTaps<T, K, ND>& taps, auto count) {
        V products[taps.WINDOW];  // of gradient and input at each tap, summed over the channels
        for (int k = 0; k < count; k++) products[k] = V{};
        over_channel_groups<L>(channels, [&](int64_t c, int done) {
          V some = load<T, L>(g + c);
          for (int k = 0; k < count; k++) products[k] += new_lanes<T, L>(some * load<T, L>(p + taps.at[k] + c), done);
        });
        for (int k = 0; k < count; k++)
          for (int a = 0; a < ND; a++) total[a] += taps.d[a][k] * products[k];
      });
    }
    T dx = T(i) * along.step + along.first;
    for (int a = 0; a < ND; a++) {
      if (!t.whole && !moves(t.bits[i], a)) total[a] = V{};
      if (linear) by[a] += total[a], by_dx[a] += total[a] * dx;
      else t.g[a][i] = sum<T, L>(total[a]);
    }
  }
  if (linear) {
    T by_sum[3], by_dx_sum[3];
    for (int a = 0; a < 3; a++) by_sum[a] = sum<T, L>(by[a]), by_dx_sum[a] = sum<T, L>(by_dx[a]);
    add_row(m, r, by_sum, by_dx_sum, sums);
    return;
  }
  for (int a = 0; a < ND; a++)  // add_derivatives reads whole vectors
    for (int i = r.n; i % WIDTH<T>; i++) t.g[a][i] = 0;
  add_derivatives(m, r, call, t, sums);
}

// Equation (2): adds weight times grad to the taps of n output pixels in `sums`, which has the form of the input.
template <class T, int K, int ND, int L>
static void pixels_input_gradient(const Taps<T>& t, int n, const T* grad, Pitches pitches, int64_t stride, int64_t channels,
                                  T* sums) {
  typedef Lanes<T, L> V;
  int64_t at[PixelTaps<T, K, ND>::WINDOW];
  offsets<K, ND>(pitches, stride, at);
  for (int i = 0; i < n; i++, grad += stride) {
    T* p = sums + t.at[i] * stride;
    with_taps<T, K, ND, false>(t, i, at, [&](const PixelTaps<T, K, ND>& taps, auto count) {
      over_channel_groups<L>(channels, [&](int64_t c, int done) {
        V g = new_lanes<T, L>(load<T, L>(grad + c), done);
        for (int k = 0; k < count; k++) {
          T* q = p + taps.at[k] + c;
          store<T, L>(q, load<T, L>(q) + taps.w[k] * g);
        }
      });
    });
  }
}
