// Step 3, channels side by side: one vector holds channels of one pixel.
//
// L: how many channels are taken at a time; the last ones of a pixel overlap where their number is no multiple.
#pragma once
#include "planes.h"

// The taps of one output pixel: offsets in elements and weights.
template <class T, int K, int ND> struct Taken {
  static constexpr int MOST = ND == 3 ? K * K * K : K * K;
  int count;
  int64_t at[MOST];
  T w[MOST], d[3][MOST];
};
// where the taps of a whole window lie
template <int K, int ND> INLINE void offsets(Steps steps, int64_t stride, int64_t* to) {
  for (int k = 0; k < (ND == 3 ? K * K * K : K * K); k++)
    to[k] = (k / (K * K) * steps.slice + k / K % K * steps.row + k % K) * stride;
}

template <class T, int K, int ND, bool SLOPES>
INLINE void take(const Taps<T>& t, int i, const int64_t* at, bool is_whole, Taken<T, K, ND>& taken) {
  T wx[K], wy[K], wz[K], dx[K], dy[K], dz[K];
  for (int k = 0; k < K; k++) {
    wx[k] = t.w[0][k][i], wy[k] = t.w[1][k][i], wz[k] = ND == 3 ? t.w[2][k][i] : T(1);
    if (SLOPES) dx[k] = t.d[0][k][i], dy[k] = t.d[1][k][i], dz[k] = ND == 3 ? t.d[2][k][i] : T(0);
  }
  int64_t bits = t.bits[i];
  int count = 0;
  for (int k = 0; k < taken.MOST; k++) {
    int x = k % K, y = k / K % K, z = k / (K * K);
    if (!is_whole && !(is_tap(bits, 0, x) && is_tap(bits, 1, y) && (ND == 2 || is_tap(bits, 2, z)))) continue;
    T deep = ND == 3 ? wz[z] : T(1), row = ND == 3 ? wy[y] * deep : wy[y];
    int to = is_whole ? k : count;
    taken.at[to] = at[k];
    taken.w[to] = wx[x] * row;
    if (SLOPES) {
      taken.d[0][to] = dx[x] * row;
      taken.d[1][to] = ND == 3 ? wx[x] * dy[y] * deep : wx[x] * dy[y];
      if (ND == 3) taken.d[2][to] = wx[x] * wy[y] * dz[z];
    }
    count++;
  }
  taken.count = count;
}

// Calls body(first channel, how many of the following L were done before) for all `channels`, at least L of them.
template <int L, class Body> INLINE void over_channels(int64_t channels, Body body) {
  int64_t c = 0;
  for (; c + L <= channels; c += L) body(c, 0);
  if (c < channels) body(channels - L, int(L - (channels - c)));
}

// u: pixels of `stride` elements; to: pixels of `apart`.
template <class T, int K, int ND, int L>
static void pixels_forward(const Taps<T>& t, int n, const T* u, Steps steps, int64_t stride, int64_t channels, T* to, int64_t apart, bool more) {
  typedef Lanes<T, L> V;
  constexpr int every = EVERY_TAP<K, ND>;
  Taken<T, K, ND> taken;
  int64_t at[taken.MOST];
  offsets<K, ND>(steps, stride, at);
  for (int i = 0; i < n; i++, to += apart) {
    const T* p = u + t.at[i] * stride;
    if (t.has(i, every)) {
      take<T, K, ND, false>(t, i, at, true, taken);
      over_channels<L>(channels, [&](int64_t c, int) {
        V total = more ? load<T, L>(to + c) : V{};
        V first = taken.w[0] * load<T, L>(p + at[0] + c);
        for (int k = 1; k < taken.MOST; k++) first += taken.w[k] * load<T, L>(p + at[k] + c);
        store<T, L>(to + c, more ? total + first : first);
      });
    } else {
      take<T, K, ND, false>(t, i, at, false, taken);
      over_channels<L>(channels, [&](int64_t c, int done) {
        V total = {};
        for (int k = 0; k < taken.count; k++) total += taken.w[k] * load<T, L>(p + taken.at[k] + c);
        (void)done;
        store<T, L>(to + c, more ? load<T, L>(to + c) + total : total);
      });
    }
  }
}

// Lanes of `v` that were not done before.
template <class T, int L> INLINE Lanes<T, L> new_lanes(Lanes<T, L> v, int done) {
  return done ? where<T, L>(count<T, L>() >= T(done), v) : v;
}

// Writes the derivatives by the coordinates, summed over the channels, into t.g; with `more` it adds them.
template <class T, int K, int ND, int L>
static void pixels_theta(Taps<T>& t, int n, const T* u, Steps steps, int64_t stride, int64_t channels, const T* grad, int64_t apart) {
  typedef Lanes<T, L> V;
  constexpr int every = EVERY_BIT<K, ND>;
  Taken<T, K, ND> taken;
  int64_t at[taken.MOST];
  offsets<K, ND>(steps, stride, at);
  for (int i = 0; i < n; i += L) {
    V by[3][L];
    for (int l = 0; l < L; l++) {
      V total[3] = {};
      if (i + l < n) {
        const T* p = u + t.at[i + l] * stride;
        const T* g = grad + (i + l) * apart;
        bool is_whole = t.has(i + l, every);
        if (is_whole) {
          take<T, K, ND, true>(t, i + l, at, true, taken);
          over_channels<L>(channels, [&](int64_t c, int done) {
            V slope[3] = {};
            for (int k = 0; k < taken.MOST; k++) {
              V value = load<T, L>(p + at[k] + c);
              for (int a = 0; a < ND; a++) slope[a] += taken.d[a][k] * value;
            }
            V some = load<T, L>(g + c);
            for (int a = 0; a < ND; a++) total[a] += new_lanes<T, L>(some * slope[a], done);
          });
        } else {
          take<T, K, ND, true>(t, i + l, at, false, taken);
          over_channels<L>(taken.count ? channels : 0, [&](int64_t c, int done) {
            V slope[3] = {};
            for (int k = 0; k < taken.count; k++) {
              V value = load<T, L>(p + taken.at[k] + c);
              for (int a = 0; a < ND; a++) slope[a] += taken.d[a][k] * value;
            }
            V some = load<T, L>(g + c);
            for (int a = 0; a < ND; a++)
              if (moves(t.bits[i + l], a)) total[a] += new_lanes<T, L>(some * slope[a], done);
          });
        }
      }
      for (int a = 0; a < ND; a++) by[a][l] = total[a];
    }
    for (int a = 0; a < ND; a++) {
      transpose<T, L>(by[a]);
      V total = by[a][0];
      for (int l = 1; l < L; l++) total += by[a][l];
      store<T, L>(t.g[a] + i, total);
    }
  }
  // The adjoint reads whole vectors.
  for (int a = 0; a < ND; a++)
    for (int i = (n + L - 1) / L * L; i < (n + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T>; i++) t.g[a][i] = 0;
}

// Adds weight times grad to `sums`, pixels of `stride` elements.
template <class T, int K, int ND, int L>
static void pixels_input(const Taps<T>& t, int n, const T* grad, int64_t apart, Steps steps, int64_t stride, int64_t channels, T* sums) {
  typedef Lanes<T, L> V;
  constexpr int every = EVERY_TAP<K, ND>;
  Taken<T, K, ND> taken;
  int64_t at[taken.MOST];
  offsets<K, ND>(steps, stride, at);
  for (int i = 0; i < n; i++, grad += apart) {
    T* p = sums + t.at[i] * stride;
    if (t.has(i, every)) {
      take<T, K, ND, false>(t, i, at, true, taken);
      over_channels<L>(channels, [&](int64_t c, int done) {
        V g = new_lanes<T, L>(load<T, L>(grad + c), done);
        for (int k = 0; k < taken.MOST; k++) {
          T* q = p + at[k] + c;
          store<T, L>(q, load<T, L>(q) + taken.w[k] * g);
        }
      });
    } else {
      take<T, K, ND, false>(t, i, at, false, taken);
      over_channels<L>(channels, [&](int64_t c, int done) {
        V g = new_lanes<T, L>(load<T, L>(grad + c), done);
        for (int k = 0; k < taken.count; k++) {
          T* q = p + taken.at[k] + c;
          store<T, L>(q, load<T, L>(q) + taken.w[k] * g);
        }
      });
    }
  }
}
