// Random calls of the native library, in memory that ends where tensors end: for AddressSanitizer and UBSan.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"

extern "C" int stn_sample(const Call* call, int64_t threads);
extern "C" int stn_choose(int number);

static uint64_t state = 1;
static uint32_t draw() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return uint32_t(state >> 33);
}
static int64_t upto(int64_t most) { return draw() % most + 1; }
static float number() {
  static const float hostile[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 0, 1e-30f, 4e7f};
  if (draw() % 40 == 0) return hostile[draw() % 8];
  return float(draw() % 4001) / 1000.f - 2.f;
}

// A tensor: exactly as long as its elements.
struct Tensor {
  void* p;
  int64_t bytes;
  Tensor(int64_t count, int64_t size, bool wide, bool small) : p(malloc(count * size)), bytes(count * size) {
    for (int64_t i = 0; i < count; i++) {
      double value = small ? number() : number() * 10;
      float single = float(value);
      if (wide) memcpy(static_cast<char*>(p) + 8 * i, &value, 8);
      else if (size == 4) memcpy(static_cast<char*>(p) + 4 * i, &single, 4);
      else for (int64_t b = 0; b < size; b++) static_cast<unsigned char*>(p)[size * i + b] = (unsigned char)draw();
    }
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { free(p); }
};

static void one() {
  Call call;
  memset(&call, 0, sizeof call);
  static const int64_t taps[] = {1, 2, 4}, sizes[] = {4, 8, 2, 2};
  call.transform = draw() % 4;
  call.dimensions = call.transform < PROJECTIVE && draw() % 3 == 0 ? 3 : 2;
  call.taps = taps[draw() % (call.dimensions == 3 ? 2 : 3)];
  call.padding = draw() % 3;
  call.align_corners = draw() % 2;
  call.samples = draw() % 3 ? 1 : call.align_corners ? 1 : upto(3);
  if (call.transform < PROJECTIVE && !call.align_corners && draw() % 8 == 0) call.samples = 0;
  call.channels_last = draw() % 2;
  if (call.padding == ZEROS && draw() % 2) call.padding_value = number();
  if (!(fabs(call.padding_value) < 1e10)) call.padding_value = 3;
  call.storage = draw() % 4;
  call.images = upto(3), call.transformers = upto(2), call.channels = upto(draw() % 2 ? 4 : 21);
  int64_t most = call.dimensions == 3 ? 6 : draw() % 8 ? 12 : 300;
  for (int a = 0; a < 3; a++) call.in[a] = call.out[a] = 1;
  for (int a = 0; a < call.dimensions; a++) call.in[a] = upto(most), call.out[a] = upto(most);
  if (most == 300) call.in[draw() % 2] = call.out[draw() % 2] = 2;
  call.parameters = call.transform == AFFINE ? call.dimensions * (call.dimensions + 1)
                    : call.transform == ATTENTION ? 1 + call.dimensions : 8 + draw() % 2;
  if (call.transform == LATTICE) call.functions = upto(9);
  int64_t size = sizes[call.storage], wide = call.storage == FLOAT64, computed = wide ? 8 : 4;
  // Ragged: as many transformations, each of any image.
  int64_t order[6];
  int32_t starts[4] = {0};
  int64_t ragged = draw() % 2, made = 0, crops = upto(6);
  for (int64_t n = 0; n < call.images; n++) {
    for (int64_t c = n + 1 < call.images ? draw() % (crops - made + 1) : crops - made; c > 0; c--, made++) order[made] = crops - 1 - made;
    starts[n + 1] = int32_t(made);
  }
  if (ragged) call.transformers = 1, call.order = order, call.starts = starts;
  int64_t nk = ragged ? crops : call.images * call.transformers, samples = call.samples ? call.samples : 1;
  int64_t in = call.images * call.channels * call.pixels_in(), out = nk * call.channels * call.pixels_out();
  int64_t numbers = call.transform == LATTICE ? 2 * call.functions : call.parameters;
  Tensor input(in, size, wide, false), output(out, size, wide, false), grad(out, size, wide, false);
  Tensor du(in, size, wide, false), theta(nk * numbers, computed, wide, true), dtheta(nk * numbers, computed, wide, true);
  Tensor basis(call.functions * call.pixels_out() * samples * samples + 1, computed, wide, true);
  call.input = input.p, call.theta = theta.p, call.basis = basis.p;
  call.row_parts = 1;
  Call forward = call, backward = call;
  forward.row_parts = upto(call.out[1] * call.out[2]);
  forward.output = output.p;
  backward.grad = grad.p;
  int wanted = draw() % 3;
  if (wanted != 0) backward.input_gradient = du.p;
  if (wanted != 1 && call.taps > 1) backward.theta_gradient = dtheta.p;
  int64_t threads = upto(3);
  if (stn_sample(&forward, threads) || stn_sample(&backward, threads)) exit(3);
}

int main(int argc, char** argv) {
  int count = argc > 1 ? atoi(argv[1]) : 2000;
  state = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1;
  for (int i = 0; i < count; i++) {
    stn_choose(int(draw() % 2));
    one();
  }
  printf("%d calls forward and backward\n", count);
}
