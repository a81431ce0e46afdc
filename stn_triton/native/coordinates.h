// Step 1 of the chain from a call to pixels: from output pixels to source coordinates. Backward it is the last step: from
// the derivatives by the source coordinates to the gradient of theta.
//
// `map_of` turns theta into a Map, whose numbers are in pixel units about the centre of the output, as in
// `stn_triton/kernels/maps`. `locate` writes the source coordinates of a row. `add_derivatives`, its adjoint, adds up the
// derivatives of a row, equation (4), and `store_theta_gradient` turns these sums into the gradient of theta.
//
// Coordinates leave this file as they are, outside the image, too. Padding and reflection are step 2 (taps.h). The end
// of this file bounds the part of the image that a part of the output reads.
#pragma once
#include <math.h>

#include "call.h"
#include "taps.h"

// A piece of an output row: the pixels (x + i, y, z) for i < n. Where a pixel is the mean of several samples, it is one
// sample of each of these pixels, and (qx, qy, qz) is its number along each axis.
struct RowPiece {
  int64_t x, y, z;
  int n;
  int qx, qy, qz;
};

// One transformation. Its finer output has `samples` times the output's pixels along each axis, one for each sample.
template <class T> struct Map {
  int64_t transform, dimensions, samples;
  int64_t finer[3];  // the size of the finer output
  T centre[3];       // the coordinates of the finer output's centre
  T ratio[3][3];     // by [source axis][output axis]: source pixels per pixel of the finer output, for the identity
  T half[3];         // source pixels per normalised unit: half the source's size, with align_corners half of size - 1
  T unit[3];         // normalised units per pixel of the finer output
  T middle[3];       // the coordinates of the source's centre
  // Source axis a of a linear map: rows[a][0] dx + rows[a][1] dy + rows[a][2] dz + rows[a][3]. A projective map has three
  // such rows without dz; the third is the denominator. Of a lattice they are the identity.
  T rows[3][4];
  double inverse[3];  // linear maps: 1 / rows[axis][0]
  double reach[3];    // linear maps: how far outside the image a coordinate may lie with a tap still inside, in pixels
  const T *basis, *coefficients;  // of a lattice, as `basis` and `theta` of the call
};

// a * b + c, which the compiler makes one operation where the processor has it.
template <class T> INLINE T multiply_add(T a, T b, T c) { return a * b + c; }
template <class T> INLINE Lanes<T> multiply_add(Lanes<T> a, T b, Lanes<T> c) { return a * b + c; }

// Everything of a map but its theta.
template <class T> static void set_sizes(Map<T>& m, const Call& call, int64_t samples) {
  m.transform = call.transform;
  m.dimensions = call.dimensions;
  m.samples = samples;
  T align = T(call.align_corners);
  for (int o = 0; o < 3; o++) {
    m.finer[o] = call.out[o] * (o < call.dimensions ? samples : 1);
    m.centre[o] = T(m.finer[o] - 1) * T(0.5);
    T extent = T(m.finer[o]) - align, span = extent > 1 ? extent : 1;
    m.unit[o] = extent == 0 ? 0 : T(2) / span;
    for (int i = 0; i < 3; i++) m.ratio[i][o] = extent == 0 ? 0 : (T(call.in[i]) - align) / span;
  }
  for (int i = 0; i < 3; i++) {
    m.half[i] = (T(call.in[i]) - align) * T(0.5);
    m.middle[i] = T(call.in[i] - 1) * T(0.5);
  }
}

// What theta stands for: Map::rows, or the coefficients of a lattice.
template <class T> static void set_rows(Map<T>& m, const Call& call, const T* theta) {
  int nd = int(call.dimensions);
  memset(m.rows, 0, sizeof m.rows);
  if (call.transform == PROJECTIVE) {
    for (int r = 0; r < 3; r++)
      for (int c = 0; c < 3; c++) {
        T entry = 3 * r + c < call.parameters ? theta[3 * r + c] : T(1);
        T scale = r == 2 ? (c == 2 ? T(1) : m.unit[c]) : c == 2 ? m.half[r] : m.ratio[r][c];
        m.rows[r][c == 2 ? 3 : c] = entry * scale;
      }
  } else if (call.transform == LATTICE) {
    m.coefficients = theta;
    m.basis = static_cast<const T*>(call.basis);
    for (int r = 0; r < 2; r++) m.rows[r][r] = m.ratio[r][r], m.rows[r][3] = m.middle[r];
  } else {
    for (int r = 0; r < nd; r++) {
      bool scaled = call.transform == ATTENTION;
      for (int c = 0; c < nd; c++)
        m.rows[r][c] = scaled ? (r == c ? theta[0] * m.ratio[r][c] : T(0)) : theta[(nd + 1) * r + c] * m.ratio[r][c];
      T shift = scaled ? theta[1 + r] : theta[(nd + 1) * r + nd];
      m.rows[r][3] = multiply_add(shift, m.half[r], m.middle[r]);
      double farthest = fabs(double(m.rows[r][3]));
      for (int c = 0; c < nd; c++) farthest += fabs(double(m.rows[r][c])) * double(m.finer[c]);
      m.inverse[r] = 1 / double(m.rows[r][0]);
      m.reach[r] = (call.taps == 4 ? 2 : 1) + 1e-5 * (farthest + double(call.in[r]));
    }
  }
}

// Antialiasing, where the call leaves it to theta: how many samples an output pixel takes along each axis. It is the largest
// number of source pixels that one step of an output pixel covers, rounded up, from 1 to 8.
template <class T> static int64_t samples_asked(const Map<T>& m, const Call& call) {
  T widest = 0, total = 0;
  for (int r = 0; r < call.dimensions; r++)
    for (int c = 0; c < call.dimensions; c++) {
      T step = m.rows[r][c] < 0 ? -m.rows[r][c] : m.rows[r][c];
      widest = step > widest ? step : widest;
      total += m.rows[r][c];  // the sum finds a NaN, which a maximum may drop
    }
  if (!(widest < T(__builtin_inff())) || total != total) return 1;
  T wanted = ceil(widest - T(1e-3));
  return wanted < 1 ? 1 : wanted > 8 ? 8 : int64_t(wanted);
}

// The map of transformation number nk (`Call::map_number`).
template <class T> static Map<T> map_of(const Call& call, int64_t nk) {
  Map<T> m;
  int64_t numbers = call.transform == LATTICE ? 2 * call.functions : call.parameters;
  const T* theta = static_cast<const T*>(call.theta) + nk * numbers;
  set_sizes(m, call, call.samples ? call.samples : 1);
  set_rows(m, call, theta);
  if (!call.samples) {
    set_sizes(m, call, samples_asked(m, call));
    set_rows(m, call, theta);
  }
  return m;
}

template <class T> INLINE bool is_linear(const Map<T>& m) { return m.transform == AFFINE || m.transform == ATTENTION; }

// dx of the samples of a row: their distances from the centre of the output along x. Lanes after the last sample repeat it.
template <class T> struct Along {
  T first, step, last;
  Along(const Map<T>& m, const RowPiece& r)
      : first(T(r.x * m.samples + r.qx) - m.centre[0]), step(T(m.samples)), last(T(r.n - 1)) {}
  INLINE_MEMBER Lanes<T> operator()(int i) const {
    Lanes<T> x = count<T>() + T(i);
    return (x < last ? x : splat<T>(last)) * step + first;
  }
};
// dy and dz of a row.
template <class T> INLINE T dy_of(const Map<T>& m, const RowPiece& r) { return T(r.y * m.samples + r.qy) - m.centre[1]; }
template <class T> INLINE T dz_of(const Map<T>& m, const RowPiece& r) {
  return m.dimensions == 2 ? T(0) : T(r.z * m.samples + r.qz) - m.centre[2];
}
// The part of a row of a linear or projective map that does not depend on dx.
template <class T> INLINE T offset(const Map<T>& m, int row, T dy, T dz) {
  T deep = m.dimensions == 2 ? m.rows[row][3] : multiply_add(m.rows[row][2], dz, m.rows[row][3]);
  return multiply_add(m.rows[row][1], dy, deep);
}

// Basis function number f of a lattice at the row's samples, from number i on.
template <class T> INLINE Lanes<T> basis_at(const Map<T>& m, const RowPiece& r, int64_t f, int i) {
  const T* row = m.basis + (f * m.finer[1] + r.y * m.samples + r.qy) * m.finer[0] + r.x * m.samples + r.qx;
  if (m.samples == 1) return load_some<T>(row + i, r.n - i);
  T values[WIDTH<T>] = {};
  for (int k = 0; k < WIDTH<T> && i + k < r.n; k++) values[k] = row[(i + k) * m.samples];
  return load<T>(values);
}

// Along a row of the output, row a of a linear or projective map is by[a] dx + rest[a].
template <class T> struct Line {
  T by[3], rest[3];
  Line(const Map<T>& m, const RowPiece& r) {
    for (int a = 0; a < 3; a++) by[a] = m.rows[a][0], rest[a] = offset(m, a, dy_of(m, r), dz_of(m, r));
  }
  INLINE_MEMBER Lanes<T> operator()(int a, Lanes<T> dx) const { return multiply_add<T>(dx, by[a], splat<T>(rest[a])); }
};

// Writes the source coordinates of a row into t.s. It is not inlined, so that forward and backward run the same instructions
// and find the same bits: inlined twice, the compiler might fuse other products with other sums.
template <class T>
static __attribute__((noinline)) void locate(const Map<T>& m, const RowPiece& r, const Call& call, Taps<T>& t) {
  constexpr int L = WIDTH<T>;
  Along<T> along(m, r);
  Line<T> line(m, r);
  int n = r.n, nd = int(call.dimensions);
  if (m.transform == PROJECTIVE) {
    for (int i = 0; i < n; i += L) {
      Lanes<T> dx = along(i), z = line(2, dx);
      for (int a = 0; a < 2; a++)
        store<T>(t.s[a] + i, (z == T(0) ? splat<T>(T(__builtin_inff())) : line(a, dx) / z) + m.middle[a]);
    }
    return;
  }
  for (int i = 0; i < n; i += L) {
    Lanes<T> dx = along(i);
    store<T>(t.s[0] + i, line(0, dx));
    store<T>(t.s[1] + i, line(1, dx));
    if (nd == 3) store<T>(t.s[2] + i, line(2, dx));
  }
  if (m.transform != LATTICE) return;
  for (int i = 0; i < n; i += L) {
    Lanes<T> x = {}, y = {};
    for (int64_t f = 0; f < call.functions; f++) {
      Lanes<T> b = basis_at(m, r, f, i);
      x = multiply_add<T>(b, m.coefficients[2 * f], x);
      y = multiply_add<T>(b, m.coefficients[2 * f + 1], y);
    }
    store<T>(t.s[0] + i, multiply_add<T>(x, m.half[0], load<T>(t.s[0] + i)));
    store<T>(t.s[1] + i, multiply_add<T>(y, m.half[1], load<T>(t.s[1] + i)));
  }
}

// How many sums add_derivatives keeps: one for each coefficient of a lattice, one for each number of Map::rows otherwise.
static inline int64_t sums_of(const Call& call) { return call.transform == LATTICE ? 2 * call.functions : 12; }

// Adds an output row to the sums of Map::rows. by[a] is the sum of the derivatives by source axis a, and by_dx[a] that of
// these derivatives times dx; dy and dz are the same for the whole row.
template <class T> static void add_row(const Map<T>& m, const RowPiece& r, const T* by, const T* by_dx, double* sums) {
  double dy = dy_of(m, r), dz = dz_of(m, r);
  for (int a = 0; a < 3; a++) {
    sums[4 * a] += by_dx[a];
    sums[4 * a + 1] += by[a] * dy;
    sums[4 * a + 2] += by[a] * dz;
    sums[4 * a + 3] += by[a];
  }
}

// The adjoint of `locate`, equation (4): adds to `sums` the derivatives by the numbers of the map. t.g has the derivatives by
// the coordinates. It is 0 in lanes after the last sample, and wherever padding holds a coordinate fast (MOVES in taps.h).
template <class T>
static void add_derivatives(const Map<T>& m, const RowPiece& r, const Call& call, const Taps<T>& t, double* sums) {
  constexpr int L = WIDTH<T>;
  if (m.transform == LATTICE) {
    for (int64_t f = 0; f < call.functions; f++) {
      Lanes<T> x = {}, y = {};
      for (int i = 0; i < r.n; i += L) {
        Lanes<T> b = basis_at(m, r, f, i);
        x += load<T>(t.g[0] + i) * b;
        y += load<T>(t.g[1] + i) * b;
      }
      sums[2 * f] += sum<T>(x);
      sums[2 * f + 1] += sum<T>(y);
    }
    return;
  }
  Along<T> along(m, r);
  Line<T> line(m, r);
  Lanes<T> by[3] = {}, by_dx[3] = {};
  bool projective = m.transform == PROJECTIVE, deep = call.dimensions == 3;
  for (int i = 0; i < r.n; i += L) {
    Lanes<T> dx = along(i), g[3] = {load<T>(t.g[0] + i), load<T>(t.g[1] + i), {}};
    if (deep) g[2] = load<T>(t.g[2] + i);
    if (projective) {
      Lanes<T> z = line(2, dx);
      for (int a = 0; a < 2; a++) {
        Integers<T> there = g[a] != T(0);  // where a coordinate is not finite 0 stays 0
        g[a] = where<T>(there, g[a] / z);
        g[2] -= where<T>(there, g[a] * (line(a, dx) / z));
      }
    }
    for (int a = 0; a < 3; a++) by[a] += g[a], by_dx[a] += g[a] * dx;
  }
  T by_sum[3], by_dx_sum[3];
  for (int a = 0; a < 3; a++) by_sum[a] = sum<T>(by[a]), by_dx_sum[a] = sum<T>(by_dx[a]);
  add_row(m, r, by_sum, by_dx_sum, sums);
}

// Writes the gradient of theta number nk. `sums` has the derivatives by the numbers of the map, in pixels; each is multiplied
// by what set_rows multiplied theta's number by.
template <class T> static void store_theta_gradient(const Map<T>& m, const Call& call, int64_t nk, const double* sums) {
  int nd = int(call.dimensions);
  if (call.transform == LATTICE) {
    T* to = static_cast<T*>(call.theta_gradient) + nk * 2 * call.functions;
    for (int64_t f = 0; f < 2 * call.functions; f++) to[f] = T(sums[f] * m.half[f % 2]);
    return;
  }
  T* to = static_cast<T*>(call.theta_gradient) + nk * call.parameters;
  if (call.transform == PROJECTIVE) {
    for (int i = 0; i < call.parameters; i++) {
      int r = i / 3, c = i % 3;
      T scale = r == 2 ? (c == 2 ? T(1) : m.unit[c]) : c == 2 ? m.half[r] : m.ratio[r][c];
      to[i] = T(sums[4 * r + (c == 2 ? 3 : c)] * scale);
    }
    return;
  }
  double scale = 0;
  for (int r = 0; r < nd; r++) {
    scale += sums[4 * r + r] * m.ratio[r][r];
    double shift = sums[4 * r + 3] * m.half[r];
    if (call.transform == ATTENTION) {
      to[1 + r] = T(shift);
      continue;
    }
    for (int c = 0; c < nd; c++) to[(nd + 1) * r + c] = T(sums[4 * r + c] * m.ratio[r][c]);
    to[(nd + 1) * r + nd] = T(shift);
  }
  if (call.transform == ATTENTION) to[0] = T(scale);
}

// What part of the image is read. Of linear maps both functions find a superset; of other maps they return everything.

// Pixels [from, to) along each axis.
struct Box {
  int64_t from[3], to[3];
};

// The pixels of the image that the part `output` of the output may read. memory_size is explained in taps.h.
template <class T> static Box box_of(const Map<T>& m, const Call& call, const int64_t* memory_size, const Box& output) {
  Box box = {{0, 0, 0}, {memory_size[0], memory_size[1], memory_size[2]}};
  if (!is_linear(m) || call.padding == REFLECTION) return box;
  double low[3], high[3];
  for (int o = 0; o < 3; o++) {
    low[o] = output.from[o] * double(m.samples) - m.centre[o];
    high[o] = output.to[o] * double(m.samples) - 1 - m.centre[o];
  }
  for (int a = 0; a < call.dimensions; a++) {
    double centre = m.rows[a][3], reach = 0, size = fabs(centre);
    for (int o = 0; o < call.dimensions; o++) {
      double factor = m.rows[a][o];
      centre += factor * (low[o] + high[o]) / 2;
      reach += fabs(factor) * (high[o] - low[o]) / 2;
      size += fabs(factor) * (fabs(low[o]) + fabs(high[o]));
    }
    reach += call.taps + 2 + 1e-5 * size;
    double first = floor(centre - reach), last = ceil(centre + reach) + 1;
    if (!(first > -1e15 && last < 1e15)) continue;  // not finite, or nearly so: everything
    double most = double(memory_size[a] - call.taps);
    box.from[a] = int64_t(first < 0 ? 0 : first > most ? most : first);
    box.to[a] = int64_t(last > memory_size[a] ? memory_size[a] : last < call.taps ? call.taps : last);
  }
  return box;
}

// Finds the pixels [first, last) among [start, end) of an output row that may have a tap inside the image. The others need no
// sampling.
template <class T>
static void span_of(const Map<T>& m, const RowPiece& r, const Call& call, int64_t start, int64_t end, int64_t* first,
                    int64_t* last) {
  *first = start, *last = end;
  if (!is_linear(m) || call.padding != ZEROS || m.samples != 1) return;
  Line<T> line(m, r);
  double length = double(call.out[0]), from = double(start), to = double(end);
  for (int a = 0; a < call.dimensions; a++) {
    double low = -m.reach[a] - line.rest[a], high = double(call.in[a] - 1) + m.reach[a] - line.rest[a];
    if (!(fabs(m.inverse[a]) < 1e12)) {  // it hardly moves, or is not finite
      if (low > 1e-6 * length || high < -1e-6 * length) to = from;
      continue;
    }
    double p = low * m.inverse[a] + m.centre[0], q = high * m.inverse[a] + m.centre[0];
    double nearest = (p < q ? p : q) - 1, farthest = (p < q ? q : p) + 2;
    from = nearest > from ? nearest : from;
    to = farthest < to ? farthest : to;
  }
  if (!(from < to)) from = to = double(start);
  *first = int64_t(from), *last = int64_t(to);
}
