// Step 3, few channels in planes: one vector holds neighbouring output pixels of one channel.
#pragma once
#include "taps.h"

// The numbers of pixels from one row, and from one slice, of the image in memory to the next, and the number of all.
struct Steps {
  int64_t row, slice, all;
};

// Calls add(row, slice, its K vectors) for the K^(ND-1) rows of the windows of a vector of pixels. Numbers of the window
// that are no taps are 0.
template <class T, int K, int ND, class Add>
INLINE void over_windows(const Taps<T>& t, int i, const T* u, Steps steps, Add add) {
  constexpr int L = WIDTH<T>;
  bool is_whole = t.is_whole(i);
  Integers<T> bits = load<Integer<T>, L>(t.bits + i);
  for (int kz = 0; kz < (ND == 3 ? K : 1); kz++)
    for (int ky = 0; ky < K; ky++) {
      Lanes<T> window[K];
      load_windows<T, K>(u + kz * steps.slice + ky * steps.row, t.at + i, window);
      if (!is_whole) {
        Integers<T> there = bits >> (AXIS_BITS + ky);
        if (ND == 3) there &= bits >> (2 * AXIS_BITS + kz);
        for (int k = 0; k < K; k++) window[k] = where<T>(-((bits >> k) & there & 1), window[k]);
      }
      add(ky, kz, window);
    }
}

template <class T, int K, int ND>
static void planes_forward(const Taps<T>& t, int n, const T* u, Steps steps, int channels, T* to, int64_t apart, bool more) {
  typedef Lanes<T> V;
  for (int i = 0; i < n; i += WIDTH<T>)
    for (int c = 0; c < channels; c++) {
      V total = {};
      over_windows<T, K, ND>(t, i, u + c * steps.all, steps, [&](int ky, int kz, const V* window) {
        V along = load<T>(t.w[0][0] + i) * window[0];
        for (int k = 1; k < K; k++) along += load<T>(t.w[0][k] + i) * window[k];
        V weight = load<T>(t.w[1][ky] + i);
        if (ND == 3) weight *= load<T>(t.w[2][kz] + i);
        total += weight * along;
      });
      T* at = to + c * apart + i;
      if (more) total += load_some<T>(at, n - i);
      store_some<T>(at, total, n - i);
    }
}

// Writes the derivatives by the coordinates, summed over the channels, into t.g.
template <class T, int K, int ND>
static void planes_theta(Taps<T>& t, int n, const T* u, Steps steps, int channels, const T* grad, int64_t apart) {
  typedef Lanes<T> V;
  constexpr int L = WIDTH<T>;
  for (int i = 0; i < n; i += L) {
    V by[3] = {};
    for (int c = 0; c < channels; c++) {
      V slope[3] = {};
      over_windows<T, K, ND>(t, i, u + c * steps.all, steps, [&](int ky, int kz, const V* window) {
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
      V g = load_some<T>(grad + c * apart + i, n - i);
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

// The gradient of the input is gathered with four taps side by side: pixel by pixel one read, one addition, one write.
// They are the four of a window along x and y (bilinear) or along x (bicubic), and there is one such group for each
// other row of the window.
template <int K> constexpr int SIDE_BY_SIDE = K == 1 ? 1 : 4;
template <int K, int ND> constexpr int GROUPS = K == 1 ? 1 : K == 4 ? 4 : ND - 1;

template <class T> using Four = Lanes<T, 4>;

// Writes the weights of group number `group` of n pixels, pixel after pixel.
template <class T, int K, int ND> static void weights_side_by_side(const Taps<T>& t, int n, int group, T (*to)[4]) {
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

// Adds weight times grad to `sums`, SIDE_BY_SIDE numbers a pixel of the image.
template <class T, int K, int ND>
static void planes_input(const Taps<T>& t, int n, int group, const T (*weights)[4], const T* grad, Steps steps, T* sums) {
  constexpr int every = EVERY_TAP<K, ND>;
  bool whole = t.whole;
  if constexpr (K == 1) {
    for (int i = 0; i < n; i++)
      if (whole || t.has(i, every)) sums[t.at[i]] += grad[i];
  } else {
    sums += 4 * group * (K == 4 ? steps.row : steps.slice);
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

// Row number y of a slice of such sums, folded: `has` says which rows were written.
template <class T, int K, class Has>
static void fold_row(const T* sums, Steps steps, int64_t y, int64_t n, Has has, T* to) {
  constexpr int S = SIDE_BY_SIDE<K>;
  const T* here = sums + y * steps.row * S;
  const T* above = here - steps.row * S;
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
    // Row y of the lower sums and row y - 1 of the upper ones; a missing one counts as 0.
    bool lower = has(y), upper = has(y - 1);
    to[0] = (lower ? here[0] : 0) + (upper ? above[2] : 0);
    int64_t x = 1;
    if (lower && upper && sizeof(T) == 4)
      for (; x + 4 <= n; x += 4) {  // pixel x: the first and the last of four neighbouring numbers of each row
        Four<T> s[4];
        for (int k = 0; k < 4; k++) s[k] = load<T, 4>(here + 4 * (x + k) - 3) + load<T, 4>(above + 4 * (x + k) - 1);
        Four<T> a = shuffle<T, 4, 0, 3, 4, 7>(s[0], s[1]), b = shuffle<T, 4, 0, 3, 4, 7>(s[2], s[3]);
        store<T, 4>(to + x, shuffle<T, 4, 0, 2, 4, 6>(a, b) + shuffle<T, 4, 1, 3, 5, 7>(a, b));
      }
    for (; x < n; x++)
      to[x] = (lower ? here[4 * x] + here[4 * x - 3] : 0) + (upper ? above[4 * x + 2] + above[4 * x - 1] : 0);
  }
}
