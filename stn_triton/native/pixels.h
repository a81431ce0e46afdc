// Step 3, channels side by side: one vector holds channels of one pixel.
//
// L: how many channels are taken at a time; the last ones of a pixel overlap where their number is no multiple.
#pragma once
#include "coordinates.h"
#include "planes.h"

// The taps of one output pixel: offsets in elements and weights.
template <class T, int K, int ND> struct Taken {
  static constexpr int MOST = ND == 3 ? K * K * K : K * K;
  int64_t at[MOST];
  T w[MOST], d[3][MOST];
};
// where the taps of a whole window lie
template <int K, int ND> INLINE void offsets(Steps steps, int64_t stride, int64_t* to) {
  for (int k = 0; k < (ND == 3 ? K * K * K : K * K); k++)
    to[k] = (k / (K * K) * steps.slice + k / K % K * steps.row + k % K) * stride;
}

// Calls body(taps, how many there are) for output pixel i: a constant where all of the window are.
template <class T, int K, int ND, bool SLOPES, class Body>
INLINE void with_taps(const Taps<T>& t, int i, const int64_t* at, Body body) {
  Taken<T, K, ND> taken;
  int64_t bits = t.bits[i];
  auto add = [&](int k, int to) {
    int x = k % K, y = k / K % K, z = k / (K * K);
    T wx = t.w[0][x][i], wy = t.w[1][y][i], wz = ND == 3 ? t.w[2][z][i] : T(1), row = ND == 3 ? wy * wz : wy;
    taken.at[to] = at[k];
    taken.w[to] = wx * row;
    if (!SLOPES) return;
    T slope = t.d[1][y][i];
    taken.d[0][to] = t.d[0][x][i] * row;
    taken.d[1][to] = wx * (ND == 3 ? slope * wz : slope);
    if (ND == 3) taken.d[2][to] = wx * wy * t.d[2][z][i];
  };
  if (t.has(i, EVERY_TAP<K, ND>)) {
    for (int k = 0; k < taken.MOST; k++) add(k, k);
    body(taken, std::integral_constant<int, taken.MOST>());
  } else {
    int count = 0;
    for (int k = 0; k < taken.MOST; k++)
      if (is_tap(bits, 0, k % K) && is_tap(bits, 1, k / K % K) && (ND == 2 || is_tap(bits, 2, k / (K * K)))) add(k, count++);
    body(taken, count);
  }
}

// Where a vector holds two pixels, two neighbours of a window are read at once.
template <class T, int K, int L> constexpr bool IN_PAIRS = K > 1 && 2 * L == WIDTH<T>;

// Numbers 2k and 2k + 1 of pixel i, each in the lanes of one pixel.
template <class T> INLINE Lanes<T> pair(const T (*numbers)[Taps<T>::MOST], int k, int i) {
  return count<T>() < T(WIDTH<T> / 2) ? splat<T>(numbers[2 * k][i]) : splat<T>(numbers[2 * k + 1][i]);
}
// Calls body(number of the row, where it begins, weight, derivatives of it by the coordinates across) for the rows of a
// whole window.
template <class T, int K, int ND, class Body>
INLINE void over_window_rows(const Taps<T>& t, int i, Steps steps, int64_t stride, Body body) {
  for (int kz = 0; kz < (ND == 3 ? K : 1); kz++)
    for (int ky = 0; ky < K; ky++) {
      T wy = t.w[1][ky][i], wz = ND == 3 ? t.w[2][kz][i] : T(1);
      T slopes[3] = {0, t.d[1][ky][i] * wz, ND == 3 ? wy * t.d[2][kz][i] : 0};
      body((kz * steps.slice + ky * steps.row) * stride, wy * wz, slopes);
    }
}
// Two neighbouring pixels of L numbers each. TIGHT: of L - 1 in memory, and the last lane of each is the next one's.
template <class T, int L, bool TIGHT> INLINE Lanes<T> two_pixels(const T* p) {
  Lanes<T> v = load<T>(p);
  if constexpr (TIGHT) return shuffle<T, 8, 0, 1, 2, 3, 3, 4, 5, 6>(v, v);
  return v;
}
// The sample of a whole window whose first pixel p is.
template <class T, int K, int ND, int L, bool TIGHT>
INLINE Lanes<T, L> sample_in_pairs(const Taps<T>& t, int i, const T* p, Steps steps) {
  constexpr int STRIDE = TIGHT ? L - 1 : L;
  Lanes<T> rows[K / 2] = {}, both = {};
  over_window_rows<T, K, ND>(t, i, steps, STRIDE, [&](int64_t at, T weight, const T*) {
    for (int k = 0; k < K / 2; k++) rows[k] += weight * two_pixels<T, L, TIGHT>(p + at + 2 * k * STRIDE);
  });
  for (int k = 0; k < K / 2; k++) both += pair<T>(t.w[0], k, i) * rows[k];
  return low<T>(both) + high<T>(both);
}
// Its derivatives by the coordinates, times a gradient.
template <class T, int K, int ND, int L>
INLINE void slopes_in_pairs(const Taps<T>& t, int i, const T* p, Steps steps, Lanes<T, L> grad, Lanes<T, L>* total) {
  Lanes<T> both[ND] = {}, some = twice<T>(grad);
  over_window_rows<T, K, ND>(t, i, steps, L, [&](int64_t at, T weight, const T* slopes) {
    for (int k = 0; k < K / 2; k++) {
      Lanes<T> row = load<T>(p + at + 2 * k * L);
      both[0] += weight * row * pair<T>(t.d[0], k, i);
      for (int a = 1; a < ND; a++) both[a] += slopes[a] * row * pair<T>(t.w[0], k, i);
    }
  });
  for (int a = 0; a < ND; a++) both[a] *= some, total[a] = low<T>(both[a]) + high<T>(both[a]);
}

// Calls body(first channel, how many of the following L were done before) for all `channels`, at least L of them.
template <int L, class Body> INLINE void over_channels(int64_t channels, Body body) {
  if (channels == L) return body(0, 0);
  int64_t c = 0;
  for (; c + L <= channels; c += L) body(c, 0);
  if (c < channels) body(channels - L, int(L - (channels - c)));
}

// Pixels of `stride` elements. With `more` what is there is added to. TIGHT: of L - 1 elements; each is stored with one
// too many, which the next replaces.
template <class T, int K, int ND, int L, bool TIGHT>
static void pixels_forward(const Taps<T>& t, int n, const T* u, Steps steps, int64_t stride, int64_t channels, T* to, bool more) {
  typedef Lanes<T, L> V;
  int64_t at[Taken<T, K, ND>::MOST];
  offsets<K, ND>(steps, stride, at);
  for (int i = 0; i < n; i++, to += stride) {
    const T* p = u + t.at[i] * stride;
    auto put = [&](int64_t c, V total) {
      if (TIGHT && i == n - 1) store_some<T, L>(to, total, L - 1);
      else store<T, L>(to + c, more ? load<T, L>(to + c) + total : total);
    };
    if constexpr (IN_PAIRS<T, K, L>)
      if (t.has(i, EVERY_TAP<K, ND>)) {
        put(0, sample_in_pairs<T, K, ND, L, TIGHT>(t, i, p, steps));
        continue;
      }
    with_taps<T, K, ND, false>(t, i, at, [&](const Taken<T, K, ND>& taken, auto count) {
      over_channels<L>(channels, [&](int64_t c, int) {
        V total = {};
        for (int k = 0; k < count; k++) total += taken.w[k] * load<T, L>(p + taken.at[k] + c);
        put(c, total);
      });
    });
  }
}

// Lanes of `v` that were not done before.
template <class T, int L> INLINE Lanes<T, L> new_lanes(Lanes<T, L> v, int done) {
  return done ? where<T, L>(count<T, L>() >= T(done), v) : v;
}

// Adds to `sums` the derivatives by the map's numbers.
template <class T, int K, int ND, int L>
static void pixels_theta(Taps<T>& t, const Map<T>& m, const Row& r, const Call& call, const T* u, Steps steps,
                         int64_t stride, int64_t channels, const T* grad, double* sums) {
  typedef Lanes<T, L> V;
  int64_t at[Taken<T, K, ND>::MOST];
  offsets<K, ND>(steps, stride, at);
  bool linear = is_linear(m);
  Along<T> along(m, r);
  V by[3] = {}, by_dx[3] = {};
  for (int i = 0; i < r.n; i++) {
    const T* p = u + t.at[i] * stride;
    const T* g = grad + i * stride;
    V total[3] = {};
    if (IN_PAIRS<T, K, L> && t.has(i, EVERY_TAP<K, ND>)) {
      if constexpr (IN_PAIRS<T, K, L>) slopes_in_pairs<T, K, ND, L>(t, i, p, steps, load<T, L>(g), total);
    } else {
      with_taps<T, K, ND, true>(t, i, at, [&](const Taken<T, K, ND>& taken, auto count) {
        V products[taken.MOST];  // of gradient and input at each tap, summed over the channels
        for (int k = 0; k < count; k++) products[k] = V{};
        over_channels<L>(channels, [&](int64_t c, int done) {
          V some = load<T, L>(g + c);
          for (int k = 0; k < count; k++) products[k] += new_lanes<T, L>(some * load<T, L>(p + taken.at[k] + c), done);
        });
        for (int k = 0; k < count; k++)
          for (int a = 0; a < ND; a++) total[a] += taken.d[a][k] * products[k];
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
  for (int a = 0; a < ND; a++)  // The adjoint reads whole vectors.
    for (int i = r.n; i % WIDTH<T>; i++) t.g[a][i] = 0;
  add_derivatives(m, r, call, t, sums);
}

// Adds weight times grad to `sums`, pixels of `stride` elements.
template <class T, int K, int ND, int L>
static void pixels_input(const Taps<T>& t, int n, const T* grad, Steps steps, int64_t stride, int64_t channels, T* sums) {
  typedef Lanes<T, L> V;
  int64_t at[Taken<T, K, ND>::MOST];
  offsets<K, ND>(steps, stride, at);
  for (int i = 0; i < n; i++, grad += stride) {
    T* p = sums + t.at[i] * stride;
    with_taps<T, K, ND, false>(t, i, at, [&](const Taken<T, K, ND>& taken, auto count) {
      over_channels<L>(channels, [&](int64_t c, int done) {
        V g = new_lanes<T, L>(load<T, L>(grad + c), done);
        for (int k = 0; k < count; k++) {
          T* q = p + taken.at[k] + c;
          store<T, L>(q, load<T, L>(q) + taken.w[k] * g);
        }
      });
    });
  }
}
