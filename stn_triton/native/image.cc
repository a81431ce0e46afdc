// One image after the other, through the three steps: coordinates (coordinates.h), taps (taps.h), channels (planes.h,
// pixels.h). Compiled once for each instruction set, with STN_LEVEL as the name of that.
#include <stdlib.h>

#include "coordinates.h"
#include "pixels.h"
#include "planes.h"
#include "storage.h"

namespace {

constexpr int64_t FEW = 8;                   // so many channels in planes are brought side by side, fewer are not
constexpr int64_t FEW_SUMS = 3;              // the same where the gradient of the input is wanted
constexpr int64_t IN_CACHE = 768 << 10;      // bytes that are read in order before they are read as they come
constexpr int64_t TURNED = 256 << 10;         // bytes of channels brought side by side
constexpr int64_t SUMS_AT_A_TIME = 16 << 20; // bytes of sums that planes of one image may take together
constexpr int64_t BAND = 16;                 // output rows that are read ahead where an image is larger

struct OutOfMemory {};

// Memory that grows as it is asked for, whatever it held.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(p_); }
  template <class T> T* of(int64_t count) {
    int64_t bytes = (count + 32) * int64_t(sizeof(T));
    if (bytes > size_) {
      free(p_);
      p_ = malloc(size_t(bytes));
      size_ = p_ ? bytes : 0;
      if (!p_) throw OutOfMemory();
    }
    return static_cast<T*>(p_);
  }

 private:
  void* p_ = nullptr;
  int64_t size_ = 0;
};

struct Buffers {
  Buffer image, sums, row, grad, weights, theta;
};

int64_t bytes_of(const Call& call) {
  return call.storage == FLOAT64 ? 8 : call.storage == FLOAT32 ? 4 : 2;
}
const char* element(const Call& call, const void* p, int64_t number) {
  return static_cast<const char*>(p) + number * bytes_of(call);
}
char* element(const Call& call, void* p, int64_t number) { return static_cast<char*>(p) + number * bytes_of(call); }

// Calls body with a pointer of the type that is stored.
template <class T, class P, class Body> void stored_as(const Call& call, P* p, Body body) {
  constexpr bool is_const = std::is_const<P>::value;
  typedef typename std::conditional<is_const, const Half, Half>::type H;
  typedef typename std::conditional<is_const, const Brain, Brain>::type B;
  typedef typename std::conditional<is_const, const T, T>::type W;
  if constexpr (sizeof(T) == 4) {
    if (call.storage == FLOAT16) return body(reinterpret_cast<H*>(p));
    if (call.storage == BFLOAT16) return body(reinterpret_cast<B*>(p));
  }
  body(reinterpret_cast<W*>(p));
}

// What one image needs: its maps, its size in memory, and the steps from output rows to taps.
template <class T, int K, int ND> class Image {
 protected:
  const Call& call_;
  Buffers& buffers_;
  int64_t n_;
  int64_t have_[3];
  Steps steps_;
  Box box_ = {};
  int64_t maps_;  // transformations of this image
  Taps<T>& t_;
  double* sums_ = nullptr;

  Image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t n) : call_(call), buffers_(buffers), n_(n), maps_(call.maps_of(n)), t_(t) {
    for (int a = 0; a < 3; a++) have_[a] = a < ND && call.in[a] < K ? K : call.in[a];
    steps_ = {have_[0], have_[0] * have_[1], have_[0] * have_[1] * have_[2]};
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = map(k);
      Box box = box_of(m, call, have_, 0, m_rows(), 0, m_slices());
      for (int a = 0; a < 3; a++) {
        if (k == 0 || box.from[a] < box_.from[a]) box_.from[a] = box.from[a];
        if (k == 0 || box.to[a] > box_.to[a]) box_.to[a] = box.to[a];
      }
    }
    if (!call.is_forward() && call.theta_gradient) {
      int64_t count = maps_ * sums_of(call);
      sums_ = buffers.theta.of<double>(count);
      memset(sums_, 0, count * sizeof(double));
    }
  }

  int64_t m_rows() const { return call_.out[1]; }
  int64_t m_slices() const { return call_.out[2]; }
  Map<T> map(int64_t k) const { return map_of<T>(call_, call_.number(n_, k)); }
  bool has_windows() const { return have_[0] == call_.in[0] && have_[1] == call_.in[1] && have_[2] == call_.in[2]; }
  bool is_wide() const { return call_.storage == (sizeof(T) == 4 ? FLOAT32 : FLOAT64); }
  T parts(const Map<T>& m) const {
    T count = T(m.samples) * T(m.samples);
    return ND == 3 ? count * T(m.samples) : count;
  }
  // What sums of samples are divided by when they are stored: with a padding value they are means before (add_beyond).
  T divisor(const Map<T>& m) const { return call_.padding_value != 0 ? T(1) : parts(m); }
  // Numbers of elements before channel c of this image or of result k, and those before a pixel of them.
  int64_t image_at(int64_t c) const { return n_ * call_.channels * call_.pixels_in() + channel(c, call_.pixels_in()); }
  int64_t result_at(int64_t k, int64_t c) const {
    return call_.number(n_, k) * call_.channels * call_.pixels_out() + channel(c, call_.pixels_out());
  }
  int64_t channel(int64_t c, int64_t pixels) const { return call_.channels_last ? c : c * pixels; }
  int64_t pixel(int64_t p) const { return call_.channels_last ? p * call_.channels : p; }
  int64_t pixel_of(const Row& r) const { return (r.z * call_.out[1] + r.y) * call_.out[0] + r.x; }
  Layout layout(int64_t pixels, int64_t c) const {
    return call_.channels_last ? Layout{call_.channels, 1, c} : Layout{1, pixels, 0};
  }

  // Samples in any direction defeat the processor's own prefetching: the part of the image that is needed is read once
  // in the order of memory, if it fits the cache.
  bool read_ahead(const T* u, int64_t stride, int64_t planes, const Box& box) const {
    int64_t across = (box.to[0] - box.from[0]) * stride, rows = (box.to[1] - box.from[1]) * (box.to[2] - box.from[2]);
    if (across * rows * planes * int64_t(sizeof(T)) > IN_CACHE) return false;
    uint32_t seen = 0;
    for (int64_t c = 0; c < planes; c++)
      for (int64_t z = box.from[2]; z < box.to[2]; z++)
        for (int64_t y = box.from[1]; y < box.to[1]; y++) {
          const T* row = u + (c * steps_.all + z * steps_.slice + y * steps_.row + box.from[0]) * stride;
          for (int64_t x = 0; x < across; x += 64 / int64_t(sizeof(T))) {
            uint32_t word;
            memcpy(&word, row + x, sizeof word);
            seen += word;
          }
        }
    __asm__ volatile("" : : "r"(seen));  // so that the reads are not left out
    return true;
  }

  // Calls body(row, is outside) for the rows of the output, in pieces; u: what will be read, or null.
  template <class Body> void over_rows(const Map<T>& m, const T* u, int64_t stride, int64_t planes, Body body) {
    const int64_t* out = call_.out;
    bool banded = u && !read_ahead(u, stride, planes, box_of(m, call_, have_, 0, out[1], 0, out[2]));
    for (int64_t z = 0; z < out[2]; z++)
      for (int64_t y = 0; y < out[1]; y++) {
        if (banded && y % BAND == 0 && is_linear(m)) {
          int64_t end = y + BAND < out[1] ? y + BAND : out[1];
          read_ahead(u, stride, planes, box_of(m, call_, have_, y, end, z, z + 1));
        }
        Row r = {0, y, z, 0, 0, 0, 0};
        int64_t first, last;
        span_of(m, r, call_, &first, &last);
        pieces(r, 0, first, true, body);
        pieces(r, first, last, false, body);
        pieces(r, last, out[0], true, body);
      }
  }
  template <class Body> void pieces(Row& r, int64_t from, int64_t to, bool outside, Body body) {
    for (r.x = from; r.x < to; r.x += r.n) {
      r.n = int(to - r.x < Taps<T>::MOST ? to - r.x : Taps<T>::MOST);
      body(r, outside);
    }
  }
  // Calls body(row, is not the first) with the taps of every sample of the row's pixels.
  template <bool SLOPES, class Body> void over_samples(const Map<T>& m, Row& r, Body body) {
    int s = int(m.samples);
    for (r.qz = 0; r.qz < (ND == 3 ? s : 1); r.qz++)
      for (r.qy = 0; r.qy < s; r.qy++)
        for (r.qx = 0; r.qx < s; r.qx++) {
          locate(m, r, call_, t_);
          find_taps<T, K, ND, SLOPES>(t_, r.n, have_, call_);
          body(r, r.qx || r.qy || r.qz);
        }
  }
  double* sums(int64_t k) const { return sums_ + k * sums_of(call_); }
  void store_theta() const {
    if (!sums_) return;
    for (int64_t k = 0; k < maps_; k++)
      store_theta_gradient(map(k), call_, call_.number(n_, k), sums(k));
  }
  // Calls body(number of the row in the image, in the copy of it) for the rows that the box holds, or for all.
  template <class Body> void over_image(bool everything, Body body) const {
    for (int64_t z = everything ? 0 : box_.from[2]; z < (everything ? call_.in[2] : box_.to[2]); z++)
      for (int64_t y = everything ? 0 : box_.from[1]; y < (everything ? call_.in[1] : box_.to[1]); y++)
        if (y < call_.in[1] && z < call_.in[2]) body(y, z, (z * call_.in[1] + y) * call_.in[0], z * steps_.slice + y * steps_.row);
  }
  void clear(T* sums, int64_t lanes) const {
    for (int64_t z = box_.from[2]; z < box_.to[2]; z++)
      memset(sums + (z * steps_.slice + box_.from[1] * steps_.row) * lanes, 0,
             (box_.to[1] - box_.from[1]) * steps_.row * lanes * sizeof(T));
  }
  bool in_box(int axis, int64_t at) const { return at >= box_.from[axis] && at < box_.to[axis]; }
};

// Few channels in planes.
template <class T, int K, int ND> class Planes : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::steps_, Base::t_;
  static constexpr int MOST = Taps<T>::MOST, S = SIDE_BY_SIDE<K>;

 public:
  Planes(const Call& call, Buffers& buffers, Taps<T>& t, int64_t n) : Base(call, buffers, t, n) {}

  void forward() {
    if (!maps_) return;
    int channels = int(call_.channels);
    const T* u = planes();
    T* row = buffers_.row.template of<T>(channels * MOST);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      bool direct = this->is_wide() && m.samples == 1;
      this->over_rows(m, u, 1, channels, [&](Row& r, bool outside) {
        char* to = element(call_, call_.output, this->result_at(k, 0) + this->pixel_of(r));
        int64_t apart = call_.pixels_out();
        if (outside) {
          for (int64_t i = 0; i < r.n; i++) row[i] = T(call_.padding_value);
          stored_as<T>(call_, to, [&](auto* p) {
            for (int c = 0; c < channels; c++) narrow<T>(row, r.n, T(1), p + c * apart);
          });
          return;
        }
        T* at = direct ? reinterpret_cast<T*>(to) : row;
        this->template over_samples<false>(m, r, [&](const Row&, bool more) {
          planes_forward<T, K, ND>(t_, r.n, u, steps_, channels, at, direct ? apart : MOST, more);
          collect_beyond<T>(t_, r.n, call_.padding_value, more);
        });
        add_beyond<T>(t_, r.n, call_.padding_value, this->parts(m), at, 1, channels, direct ? apart : MOST);
        if (direct) return;
        stored_as<T>(call_, to, [&](auto* p) {
          for (int c = 0; c < channels; c++) narrow<T>(row + c * MOST, r.n, this->divisor(m), p + c * apart);
        });
      });
    }
  }

  void backward() {
    const T* u = this->sums_ ? planes() : nullptr;
    int64_t bytes = steps_.all * S * int64_t(sizeof(T)), together = SUMS_AT_A_TIME / (bytes ? bytes : 1);
    if (together < 1) together = 1;
    if (together > call_.channels || !call_.input_gradient) together = call_.channels;
    for (int64_t c = 0; c < call_.channels; c += together)
      backward(u, c, int(together < call_.channels - c ? together : call_.channels - c));
    this->store_theta();
  }

 private:
  // The image as the steps read it: itself, or a copy that is wide and no smaller than a window.
  const T* planes() {
    const void* input = call_.input;
    if (this->is_wide() && this->has_windows())
      return reinterpret_cast<const T*>(element(call_, input, this->image_at(0)));
    T* copy = buffers_.image.template of<T>(call_.channels * steps_.all);
    for (int64_t c = 0; c < call_.channels; c++)
      this->over_image(false, [&](int64_t, int64_t, int64_t from, int64_t to) {
        stored_as<T>(call_, element(call_, input, this->image_at(c) + from),
                     [&](auto* p) { widen<T>(p, call_.in[0], T(1), copy + c * steps_.all + to); });
      });
    return copy;
  }

  void backward(const T* u, int64_t c0, int channels) {
    T* sums = nullptr;
    T(*weights)[4] = nullptr;
    if (call_.input_gradient) {
      sums = buffers_.sums.template of<T>(channels * steps_.all * S);
      weights = reinterpret_cast<T(*)[4]>(buffers_.weights.template of<T>(4 * MOST));
      for (int c = 0; c < channels; c++) this->clear(sums + c * steps_.all * S, S);
    }
    T* row = buffers_.row.template of<T>(channels * MOST);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      bool direct = this->is_wide() && m.samples == 1;
      this->over_rows(m, u ? u + c0 * steps_.all : u, 1, channels, [&](Row& r, bool outside) {
        if (outside) return;
        const char* from = element(call_, call_.grad, this->result_at(k, c0) + this->pixel_of(r));
        int64_t apart = call_.pixels_out();
        if (!direct)
          stored_as<T>(call_, from, [&](auto* p) {
            for (int c = 0; c < channels; c++) widen<T>(p + c * apart, r.n, this->parts(m), row + c * MOST);
          });
        const T* grad = direct ? reinterpret_cast<const T*>(from) : row;
        if (!direct) apart = MOST;
        this->template over_samples<true>(m, r, [&](const Row& sample, bool) {
          if (u) {
            planes_theta<T, K, ND>(t_, r.n, u + c0 * steps_.all, steps_, channels, grad, apart);
            add_derivatives(m, sample, call_, t_, this->sums(k));
            if (beyond_theta<T, ND>(t_, r.n, call_.padding_value, grad, 1, channels, apart))
              add_derivatives(m, sample, call_, t_, this->sums(k));
          }
          for (int group = 0; sums && group < GROUPS<K, ND>; group++) {
            if (K > 1) weights_side_by_side<T, K, ND>(t_, r.n, group, weights);
            for (int c = 0; c < channels; c++)
              planes_input<T, K, ND>(t_, r.n, group, weights, grad + c * apart, steps_, sums + c * steps_.all * S);
          }
        });
      });
    }
    if (sums) store_input(sums, c0, channels);
  }

  void store_input(const T* sums, int64_t c0, int channels) {
    int64_t n = call_.in[0];
    T* row = buffers_.row.template of<T>(n);
    for (int c = 0; c < channels; c++)
      this->over_image(true, [&](int64_t y, int64_t z, int64_t at, int64_t) {
        auto has = [&](int64_t y) { return this->in_box(1, y) && this->in_box(2, z); };
        char* to = element(call_, call_.input_gradient, this->image_at(c0 + c) + at);
        T* folded = this->is_wide() ? reinterpret_cast<T*>(to) : row;
        fold_row<T, K>(sums + (c * steps_.all + z * steps_.slice) * S, steps_, y, n, has, folded);
        if (!this->is_wide()) stored_as<T>(call_, to, [&](auto* p) { narrow<T>(row, n, T(1), p); });
      });
  }
};

// Channels side by side: as many as fit the cache brought into that form, or all of them where they lie so.
template <class T, int K, int ND, int L> class Pixels : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::steps_, Base::t_;
  static constexpr int MOST = Taps<T>::MOST;
  bool direct_;
  int64_t stride_;  // numbers of a pixel in memory, no fewer than L

 public:
  Pixels(const Call& call, Buffers& buffers, Taps<T>& t, int64_t n) : Base(call, buffers, t, n) {
    direct_ = call.channels_last && this->is_wide() && this->has_windows() && call.samples == 1 && call.channels >= L;
    int64_t fit = TURNED / (steps_.all * int64_t(sizeof(T))) / L * L, all = (call.channels + L - 1) / L * L;
    stride_ = direct_ ? call.channels : fit > all ? all : fit > L ? fit : L;
  }

  void forward() {
    if (!maps_) return;
    T* row = buffers_.row.template of<T>(MOST * stride_);
    for (int64_t c = 0; c < call_.channels; c += stride_) {
      const T* u = pixels(c);
      for (int64_t k = 0; k < maps_; k++) {
        Map<T> m = this->map(k);
        int64_t first = 0, end = 0;  // results that wait in `row`, to be stored channel by channel
        auto store = [&]() {
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            put(row + b - c, b, call_.pixels_out(), end - first, this->divisor(m), result(call_.output, k, b, first));
          first = end;
        };
        this->over_rows(m, u, stride_, 1, [&](Row& r, bool outside) {
          int64_t pixel = this->pixel_of(r);
          if (!direct_ && pixel + r.n - first > MOST) store();
          end = pixel + r.n;
          T* at = direct_ ? reinterpret_cast<T*>(result(call_.output, k, 0, pixel)) : row + (pixel - first) * stride_;
          if (outside) {
            for (int64_t i = 0; i < r.n * stride_; i++) at[i] = T(call_.padding_value);
          } else {
            this->template over_samples<false>(m, r, [&](const Row&, bool more) {
              pixels_forward<T, K, ND, L>(t_, r.n, u, steps_, stride_, lanes(c), at, more);
              collect_beyond<T>(t_, r.n, call_.padding_value, more);
            });
            add_beyond<T>(t_, r.n, call_.padding_value, this->parts(m), at, stride_, lanes(c), 1);
          }
        });
        if (!direct_) store();
      }
    }
  }

  void backward() {
    for (int64_t c = 0; c < call_.channels; c += stride_) backward(c);
    this->store_theta();
  }

 private:
  // How many channels from c on are taken together, and how many numbers a pixel of them is.
  int64_t width(int64_t c, int64_t most) const { return call_.channels - c < most ? call_.channels - c : most; }
  template <class P> auto result(P* p, int64_t k, int64_t c, int64_t pixel) const {
    return element(call_, p, this->result_at(k, c) + this->pixel(pixel));
  }
  int64_t lanes(int64_t c) const { return direct_ ? stride_ : (width(c, stride_) + L - 1) / L * L; }
  // Between pixels of memory, `from` or `to`, and rows of n pixels of `stride_`: L channels from c on.
  void get(const char* from, int64_t c, int64_t pixels, int64_t n, T parts, T* row) const {
    stored_as<T>(call_, from, [&](auto* p) { gather<T, L>(p, this->layout(pixels, c), int(width(c, L)), n, parts, row, stride_); });
  }
  void put(const T* row, int64_t c, int64_t pixels, int64_t n, T parts, char* to) const {
    stored_as<T>(call_, to, [&](auto* p) {
      scatter<T, L>(row, stride_, this->layout(pixels, c), int(width(c, L)), call_.channels <= L, n, parts, p);
    });
  }
  const T* pixels(int64_t c) {
    const void* input = call_.input;
    if (direct_) return reinterpret_cast<const T*>(element(call_, input, this->image_at(0)));
    T* copy = buffers_.image.template of<T>(steps_.all * stride_);
    for (int64_t b = c; b < c + width(c, stride_); b += L)
      this->over_image(false, [&](int64_t, int64_t, int64_t from, int64_t to) {
        get(element(call_, input, this->image_at(b) + this->pixel(from)), b, call_.pixels_in(), call_.in[0], T(1), copy + to * stride_ + b - c);
      });
    return copy;
  }

  void backward(int64_t c) {
    const T* u = this->sums_ ? pixels(c) : nullptr;
    T* sums = nullptr;
    if (call_.input_gradient && direct_) {
      sums = reinterpret_cast<T*>(element(call_, call_.input_gradient, this->image_at(0)));
      memset(sums, 0, steps_.all * stride_ * sizeof(T));
    } else if (call_.input_gradient) {
      sums = buffers_.sums.template of<T>(steps_.all * stride_);
      this->clear(sums, stride_);
    }
    T* row = buffers_.row.template of<T>(MOST * stride_);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      int64_t first = 0, end = 0;  // pixels of the output whose gradients are in `row`
      this->over_rows(m, u, stride_, 1, [&](Row& r, bool outside) {
        if (outside) return;
        int64_t pixel = this->pixel_of(r);
        if (!direct_ && pixel + r.n > end) {
          first = pixel, end = pixel + MOST < call_.pixels_out() ? pixel + MOST : call_.pixels_out();
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            get(result(call_.grad, k, b, first), b, call_.pixels_out(), end - first, this->parts(m), row + b - c);
        }
        const T* grad = direct_ ? reinterpret_cast<const T*>(result(call_.grad, k, 0, pixel)) : row + (pixel - first) * stride_;
        this->template over_samples<true>(m, r, [&](const Row& sample, bool) {
          if (u) pixels_theta<T, K, ND, L>(t_, m, sample, call_, u, steps_, stride_, lanes(c), grad, this->sums(k));
          if (u && beyond_theta<T, ND>(t_, r.n, call_.padding_value, grad, stride_, width(c, stride_), 1))
            add_derivatives(m, sample, call_, t_, this->sums(k));
          if (sums) pixels_input<T, K, ND, L>(t_, r.n, grad, steps_, stride_, lanes(c), sums);
        });
      });
    }
    if (sums && !direct_) store_input(sums, c);
  }

  void store_input(T* sums, int64_t c) {
    int64_t n = call_.in[0];
    T* nothing = buffers_.row.template of<T>((n > MOST ? n : MOST) * stride_);
    memset(nothing, 0, n * stride_ * sizeof(T));
    for (int64_t b = c; b < c + width(c, stride_); b += L)
      this->over_image(true, [&](int64_t y, int64_t z, int64_t at, int64_t row) {
        bool has = this->in_box(1, y) && this->in_box(2, z);
        put(has ? sums + row * stride_ + b - c : nothing, b, call_.pixels_in(), n, T(1),
            element(call_, call_.input_gradient, this->image_at(b) + this->pixel(at)));
      });
  }
};

template <class Run> void run(Run image, const Call& call) { call.is_forward() ? image.forward() : image.backward(); }

template <class T, int K, int ND> void one_image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t n) {
  constexpr int L = WIDTH<T>;
  if (!call.channels_last && call.channels < (call.input_gradient ? FEW_SUMS : FEW)) return run(Planes<T, K, ND>(call, buffers, t, n), call);
  if constexpr (L > 4)
    if (call.channels <= 4) return run(Pixels<T, K, ND, 4>(call, buffers, t, n), call);
  run(Pixels<T, K, ND, L>(call, buffers, t, n), call);
}

template <class T> void images(const Call& call, int64_t* next) {
  typedef void One(const Call&, Buffers&, Taps<T>&, int64_t);
  One* two[5] = {nullptr, one_image<T, 1, 2>, one_image<T, 2, 2>, nullptr, one_image<T, 4, 2>};
  One* three[3] = {nullptr, one_image<T, 1, 3>, one_image<T, 2, 3>};
  One* one = call.dimensions == 3 ? three[call.taps] : two[call.taps];
  Buffers buffers;
  Buffer memory;
  char* start = memory.of<char>(sizeof(Taps<T>) + 64);
  Taps<T>& t = *reinterpret_cast<Taps<T>*>((reinterpret_cast<uintptr_t>(start) + 63) / 64 * 64);
  for (;;) {
    int64_t n = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (n >= call.images) return;
    one(call, buffers, t, n);
  }
}

}  // namespace

namespace STN_LEVEL {

int work(const Call& call, int64_t* next) {
  try {
    call.storage == FLOAT64 ? images<double>(call, next) : images<float>(call, next);
  } catch (const OutOfMemory&) {
    return 1;
  }
  return 0;
}

}  // namespace STN_LEVEL
