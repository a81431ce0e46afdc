// Vectors of numbers, by the vector extensions of GCC and Clang, so that one source serves every processor. The three steps
// from a call to pixels (call.h) are written with them.
//
// T is float or double, and L is the number of lanes. Lanes<T, L> is a vector of T. Integers<T, L> is a vector of integers
// of the same width; it also serves as a mask, with -1 in a lane that is set and 0 in one that is not.
#pragma once
#include <stdint.h>
#include <string.h>

#include <limits>
#include <utility>

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER

#ifdef __AVX__
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif

template <class T> struct IntegerOf;
template <> struct IntegerOf<float> { typedef int32_t type; };
template <> struct IntegerOf<double> { typedef int64_t type; };
template <class T> using Integer = typename IntegerOf<T>::type;
template <class T> constexpr int WIDTH = VECTOR_BYTES / sizeof(T);  // lanes of a register

template <class T, int L> struct LanesOf {
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
  typedef T stored __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));  // the same at any address
};
template <class T, int L = WIDTH<T>> using Lanes = typename LanesOf<T, L>::type;
template <class T, int L = WIDTH<T>> using Integers = typename LanesOf<Integer<T>, L>::type;

template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> load(const T* p) {
  return *reinterpret_cast<const typename LanesOf<T, L>::stored*>(p);
}
template <class T, int L = WIDTH<T>> INLINE void store(T* p, Lanes<T, L> v) {
  *reinterpret_cast<typename LanesOf<T, L>::stored*>(p) = v;
}
// x in every lane.
template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> splat(T x) { return x - Lanes<T, L>{}; }

// Copies the first n of L elements, n >= 0. It copies powers of two, since a memcpy of variable size would be a call of the
// C library.
template <int L, class E> INLINE void copy_some(E* to, const E* from, int64_t n) {
  if (n >= L) {
    memcpy(to, from, L * sizeof(E));
    return;
  }
  int64_t done = 0;
  if constexpr (L > 4)
    if (n & 4) memcpy(to, from, 4 * sizeof(E)), done = 4;
  if constexpr (L > 2)
    if (n & 2) memcpy(to + done, from + done, 2 * sizeof(E)), done += 2;
  if (n & 1) to[done] = from[done];
}
// load_some loads n elements, at most L, and sets the other lanes to 0. store_some stores only the first n lanes.
template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> load_some(const T* p, int64_t n) {
  if (n >= L) return load<T, L>(p);
  T first[L] = {};
  copy_some<L>(first, p, n);
  return load<T, L>(first);
}
template <class T, int L = WIDTH<T>> INLINE void store_some(T* p, Lanes<T, L> v, int64_t n) {
  if (n >= L) return store<T, L>(p, v);
  T all[L];
  store<T, L>(all, v);
  copy_some<L>(p, all, n);
}

template <class T, int L, int... I> INLINE Lanes<T, L> counted(std::integer_sequence<int, I...>) {
  return Lanes<T, L>{T(I)...};
}
// 0, 1, 2, ...
template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> count() {
  return counted<T, L>(std::make_integer_sequence<int, L>());
}

// v where the mask is set, and +0 elsewhere even if v is not finite there.
template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> where(Integers<T, L> mask, Lanes<T, L> v) {
  return (Lanes<T, L>)(mask & (Integers<T, L>)v);
}
// Whether a mask is set in every lane.
template <class M> INLINE bool all(M mask) {
  int64_t parts[sizeof(M) / 8];
  memcpy(parts, &mask, sizeof mask);
  int64_t every = -1;
  for (size_t i = 0; i < sizeof(M) / 8; i++) every &= parts[i];
  return every == -1;
}
template <class T, int L = WIDTH<T>> INLINE T sum(Lanes<T, L> v) {
  if constexpr (L == 2) {
    return v[0] + v[1];
  } else {
    Lanes<T, L / 2> halves[2];
    memcpy(halves, &v, sizeof v);
    return sum<T, L / 2>(halves[0] + halves[1]);
  }
}

// The largest integer that is not above s, for s that fit the integer type.
template <class T, int L = WIDTH<T>> INLINE Lanes<T, L> round_down(Lanes<T, L> s) {
  Integers<T, L> i = __builtin_convertvector(s, Integers<T, L>);
  i += __builtin_convertvector(i, Lanes<T, L>) > s;
  return __builtin_convertvector(i, Lanes<T, L>);
}

template <class T, int L, int... I> INLINE Lanes<T, L> shuffle(Lanes<T, L> a, Lanes<T, L> b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Integers<T, L>{I...});
#endif
}

// low and high are the halves of a vector; twice joins two copies of a half.
template <class T> INLINE Lanes<T, WIDTH<T> / 2> half(Lanes<T> v, int number) {
  Lanes<T, WIDTH<T> / 2> halves[2];
  memcpy(halves, &v, sizeof v);
  return halves[number];
}
template <class T> INLINE Lanes<T, WIDTH<T> / 2> low(Lanes<T> v) { return half<T>(v, 0); }
template <class T> INLINE Lanes<T, WIDTH<T> / 2> high(Lanes<T> v) { return half<T>(v, 1); }
template <class T> INLINE Lanes<T> twice(Lanes<T, WIDTH<T> / 2> v) {
#if defined(__clang__) || __GNUC__ >= 12
  if constexpr (WIDTH<T> == 8) return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
  Lanes<T, WIDTH<T> / 2> both[2] = {v, v};  // through memory: GCC before 12 has no shuffle that widens a vector
  Lanes<T> joined;
  memcpy(&joined, both, sizeof joined);
  return joined;
}

// L vectors of L lanes, transposed by log2(L) rounds of exchanges over a distance of S.
template <class T, int L, int S, int... I>
INLINE void exchange(Lanes<T, L>* row, std::integer_sequence<int, I...>) {
  for (int i = 0; i < L; i++)
    if (!(i & S)) {
      Lanes<T, L> a = row[i], b = row[i + S];
      row[i] = shuffle<T, L, ((I & S) ? L + I - S : I)...>(a, b);
      row[i + S] = shuffle<T, L, ((I & S) ? L + I : I + S)...>(a, b);
    }
}
template <class T, int L> INLINE void transpose(Lanes<T, L>* row) {
  typedef std::make_integer_sequence<int, L> Sequence;
  exchange<T, L, 1>(row, Sequence());
  if constexpr (L >= 4) exchange<T, L, 2>(row, Sequence());
  if constexpr (L >= 8) exchange<T, L, 4>(row, Sequence());
}

// Two neighbouring floats, loaded together as the bits of one double.
INLINE double two_floats(const float* p) {
  double pair;
  memcpy(&pair, p, sizeof pair);
  return pair;
}
// The left and right numbers of pairs (0, 1, 4, 5) in a and (2, 3, 6, 7) in b, in order.
template <int... I>
INLINE void split(Lanes<float> a, Lanes<float> b, Lanes<float>* u, std::integer_sequence<int, I...>) {
  constexpr int L = WIDTH<float>;
  u[0] = shuffle<float, L, (I / 4 * 4 + I % 2 * 2 + I / 2 % 2 * L)...>(a, b);
  u[1] = shuffle<float, L, (I / 4 * 4 + I % 2 * 2 + I / 2 % 2 * L + 1)...>(a, b);
}
// For every lane i: u[0] = p[at[i]], u[1] = p[at[i] + 1]. The pairs of lanes 0, 1, 4, 5 are loaded into one vector and those
// of 2, 3, 6, 7 into another. In this order `split` moves no number between the halves of a vector, and each of its shuffles
// is one instruction of AVX2. In the order 0 to 3 and 4 to 7 GCC needs three.
template <int... I>
INLINE void float_pairs(const float* p, const int32_t* at, Lanes<float>* u, std::integer_sequence<int, I...>) {
  typedef double Pairs __attribute__((vector_size(VECTOR_BYTES)));
  Lanes<float> a = (Lanes<float>)Pairs{two_floats(p + at[I % 2 + I / 2 * 4])...};
  Lanes<float> b = (Lanes<float>)Pairs{two_floats(p + at[I % 2 + I / 2 * 4 + 2])...};
  split(a, b, u, std::make_integer_sequence<int, WIDTH<float>>());
}
template <class T, int... I>
INLINE Lanes<T> gathered(const T* p, const Integer<T>* at, std::integer_sequence<int, I...>) {
  return Lanes<T>{p[at[I]]...};
}

// For every lane i and k < K: u[k] = p[at[i] + k]. Two neighbouring floats take one load together.
template <class T, int K> INLINE void load_windows(const T* p, const Integer<T>* at, Lanes<T>* u) {
  constexpr int L = WIDTH<T>;
  if constexpr (K >= 2 && sizeof(T) == 4) {
    for (int k = 0; k < K; k += 2) float_pairs(p + k, at, u + k, std::make_integer_sequence<int, L / 2>());
  } else {
    for (int k = 0; k < K; k++) u[k] = gathered<T>(p + k, at, std::make_integer_sequence<int, L>());
  }
}
