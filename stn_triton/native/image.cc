// Samples one image, or a part of its results, after the other.
//
// Each goes through three steps: coordinates (coordinates.h), taps (taps.h), channels (planes.h or pixels.h). This file is
// compiled once for each instruction set. STN_LEVEL is the name of that set, and the namespace of its `work`.
#include "image.h"
#include "pixels.h"

namespace {

constexpr int64_t FEW = 8;                   // from so many channels on, planes are transposed to channels side by side
constexpr int64_t FEW_SUMS = 3;              // the same where the gradient of the input is wanted
constexpr int64_t COPY_BYTES = 256 << 10;     // bytes of a copy of the image with its channels side by side
constexpr int64_t SUMS_AT_A_TIME = 16 << 20; // bytes of sums that planes of one image may take together

// Few channels in planes.
template <class T, int K, int ND> class Planes : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::steps_, Base::t_;
  static constexpr int MOST = Taps<T>::MOST, S = SIDE_BY_SIDE<K>;

 public:
  Planes(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) : Base(call, buffers, t, unit) {}

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
        if (outside && !this->weighed_) {
          for (int c = 0; c < channels; c++) memset(to + c * apart * call_.bytes_of_number(), 0, r.n * call_.bytes_of_number());
          return;
        }
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
          if (this->weighed_) collect_beyond<T>(t_, r.n, more);
        });
        if (this->weighed_) add_beyond<T>(t_, r.n, call_.padding_value, this->samples_of(m), at, 1, channels, direct ? apart : MOST);
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
      this->over_rows(m, u ? u + c0 * steps_.all : u, u ? 1 : S, channels, [&](Row& r, bool outside) {
        if (outside) return;
        const char* from = element(call_, call_.grad, this->result_at(k, c0) + this->pixel_of(r));
        int64_t apart = call_.pixels_out();
        for (int c = 0; c < channels; c++)
          prefetch<0>(from + (c * apart + call_.out[0]) * call_.bytes_of_number(), r.n * call_.bytes_of_number());
        if (!direct)
          stored_as<T>(call_, from, [&](auto* p) {
            for (int c = 0; c < channels; c++) widen<T>(p + c * apart, r.n, this->samples_of(m), row + c * MOST);
          });
        const T* grad = direct ? reinterpret_cast<const T*>(from) : row;
        if (!direct) apart = MOST;
        this->template over_samples<true>(m, r, [&](const Row& sample, bool) {
          if (u) {
            planes_theta<T, K, ND>(t_, r.n, u + c0 * steps_.all, steps_, channels, grad, apart);
            add_derivatives(m, sample, call_, t_, this->sums(k));
            if (this->weighed_ && beyond_theta<T, ND>(t_, r.n, call_.padding_value, grad, 1, channels, apart))
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

// Whether pixels can be read where they lie: channels side by side, wide, and images no smaller than a window.
template <class T, int K, int ND> bool are_read_in_place(const Call& call) {
  bool windows = call.in[0] >= K && call.in[1] >= K && (ND == 2 || call.in[2] >= K);
  return call.channels_last && call.storage == (sizeof(T) == 4 ? FLOAT32 : FLOAT64) && windows && call.samples == 1;
}

// Channels side by side: as many as fit the cache brought into that form, or all of them where they lie so. TIGHT, forward
// alone: L - 1 where they lie.
template <class T, int K, int ND, int L, bool TIGHT = false> class Pixels : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::steps_, Base::t_;
  static constexpr int MOST = Taps<T>::MOST;
  bool direct_;
  int64_t stride_;  // numbers of a pixel in memory, no fewer than L unless TIGHT

 public:
  Pixels(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) : Base(call, buffers, t, unit) {
    direct_ = TIGHT || (are_read_in_place<T, K, ND>(call) && call.channels >= L);
    int64_t fit = COPY_BYTES / (steps_.all * int64_t(sizeof(T))) / L * L, all = (call.channels + L - 1) / L * L;
    stride_ = direct_ ? call.channels : fit > all ? all : fit > L ? fit : L;
  }

  void forward() {
    if (!maps_) return;
    T* row = buffers_.row.template of<T>(MOST * stride_);
    for (int64_t c = 0; c < call_.channels; c += stride_) {
      const T* u = pixels(c);
      for (int64_t k = 0; k < maps_; k++) {
        Map<T> m = this->map(k);
        read_results(call_.output, k, c);
        int64_t first = this->from_ * call_.out[0], end = first;  // results that wait in `row`, to be stored channel by channel
        auto store = [&](int64_t next) {
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            put(row + b - c, b, call_.pixels_out(), end - first, this->divisor(m), result(call_.output, k, b, first));
          first = next;
        };
        this->over_rows(m, u, stride_, 1, [&](Row& r, bool outside) {
          int64_t pixel = this->pixel_of(r);
          if (!direct_ && (pixel != end || pixel + r.n - first > MOST)) store(pixel);
          end = pixel + r.n;
          T* at = direct_ ? reinterpret_cast<T*>(result(call_.output, k, 0, pixel)) : row + (pixel - first) * stride_;
          if (outside && !this->weighed_) {
            memset(at, 0, r.n * stride_ * sizeof(T));
          } else if (outside) {
            for (int64_t i = 0; i < r.n * stride_; i++) at[i] = T(call_.padding_value);
          } else {
            this->template over_samples<false>(m, r, [&](const Row&, bool more) {
              pixels_forward<T, K, ND, L, TIGHT>(t_, r.n, u, steps_, stride_, lanes(c), at, more);
              if (this->weighed_) collect_beyond<T>(t_, r.n, more);
            });
            if (this->weighed_) add_beyond<T>(t_, r.n, call_.padding_value, this->samples_of(m), at, stride_, lanes(c), 1);
          }
        });
        if (!direct_) store(end);
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
  int64_t lanes(int64_t c) const { return direct_ && !TIGHT ? stride_ : (width(c, stride_) + L - 1) / L * L; }
  // Between pixels of memory, `from` or `to`, and rows of n pixels of `stride_`: L channels from c on.
  void get(const char* from, int64_t c, int64_t pixels, int64_t n, T divisor, T* row) const {
    stored_as<T>(call_, from, [&](auto* p) { gather<T, L>(p, this->layout(pixels, c), int(width(c, L)), n, divisor, row, stride_); });
  }
  void put(const T* row, int64_t c, int64_t pixels, int64_t n, T divisor, char* to) const {
    stored_as<T>(call_, to, [&](auto* p) {
      scatter<T, L>(row, stride_, this->layout(pixels, c), int(width(c, L)), call_.channels <= L, n, divisor, p);
    });
  }
  // Pieces of L planes in turn defeat the prefetching, too: `count` pixels from number `first` on, of the channels from
  // c on, are read in the order of memory before they are brought side by side, or stored from there.
  void read_planes(const void* p, int64_t start, int64_t c, int64_t pixels, int64_t first, int64_t count) const {
    int64_t channels = call_.channels_last ? call_.channels : width(c, stride_);
    if ((call_.channels_last && c > 0) || channels * count * call_.bytes_of_number() > IN_CACHE) return;
    if (call_.channels_last) return read_in_order(element(call_, p, start + first * channels), channels * count * call_.bytes_of_number());
    for (int64_t k = 0; k < channels; k++)
      read_in_order(element(call_, p, start + k * pixels + first), count * call_.bytes_of_number());
  }
  void read_results(const void* p, int64_t k, int64_t c) const {
    int64_t row = call_.out[0];
    if (!direct_) read_planes(p, this->result_at(k, c), c, call_.pixels_out(), this->from_ * row, (this->to_ - this->from_) * row);
  }
  const T* pixels(int64_t c) {
    const void* input = call_.input;
    if (direct_) return reinterpret_cast<const T*>(element(call_, input, this->image_at(0)));
    T* copy = buffers_.image.template of<T>(steps_.all * stride_);
    int64_t end = this->box_.to[1] < call_.in[1] ? this->box_.to[1] : call_.in[1];
    int64_t together = this->has_windows() ? end - this->box_.from[1] : 1;  // rows that follow each other in the copy, too
    for (int64_t z = this->box_.from[2]; z < this->box_.to[2] && z < call_.in[2]; z++)
      for (int64_t y = this->box_.from[1]; y < end; y += together) {
        int64_t first = (z * call_.in[1] + y) * call_.in[0], count = together * call_.in[0];
        T* to = copy + (z * steps_.slice + y * steps_.row) * stride_;
        read_planes(input, this->image_at(c), c, call_.pixels_in(), first, count);
        for (int64_t b = c; b < c + width(c, stride_); b += L)
          get(element(call_, input, this->image_at(b) + this->pixel(first)), b, call_.pixels_in(), count, T(1), to + b - c);
      }
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
      read_results(call_.grad, k, c);
      int64_t first = 0, end = 0;  // pixels of the output whose gradients are in `row`
      this->over_rows(m, u, stride_, 1, [&](Row& r, bool outside) {
        if (outside) return;
        int64_t pixel = this->pixel_of(r);
        if (!direct_ && (pixel < first || pixel + r.n > end)) {
          first = pixel, end = pixel + MOST < call_.pixels_out() ? pixel + MOST : call_.pixels_out();
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            get(result(call_.grad, k, b, first), b, call_.pixels_out(), end - first, this->samples_of(m), row + b - c);
        }
        const T* grad = direct_ ? reinterpret_cast<const T*>(result(call_.grad, k, 0, pixel)) : row + (pixel - first) * stride_;
        this->template over_samples<true>(m, r, [&](const Row& sample, bool) {
          if (u) pixels_theta<T, K, ND, L>(t_, m, sample, call_, u, steps_, stride_, lanes(c), grad, this->sums(k));
          if (u && this->weighed_ && beyond_theta<T, ND>(t_, r.n, call_.padding_value, grad, stride_, width(c, stride_), 1))
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
    read_planes(call_.input_gradient, this->image_at(c), c, call_.pixels_in(), 0, call_.pixels_in());
    for (int64_t b = c; b < c + width(c, stride_); b += L)
      this->over_image(true, [&](int64_t y, int64_t z, int64_t at, int64_t row) {
        bool has = this->in_box(1, y) && this->in_box(2, z);
        put(has ? sums + row * stride_ + b - c : nothing, b, call_.pixels_in(), n, T(1),
            element(call_, call_.input_gradient, this->image_at(b) + this->pixel(at)));
      });
  }
};

template <class Run> void run(Run image, const Call& call) { call.is_forward() ? image.forward() : image.backward(); }

// Whether three channels can be read as four where they lie: what follows the last pixel must be another image.
template <class T, int K, int ND> bool is_tight(const Call& call, int64_t unit) {
  bool another_follows = unit / call.parts + 1 < call.images;
  return call.is_forward() && call.channels == 3 && call.padding_value == 0 && another_follows && are_read_in_place<T, K, ND>(call);
}

template <class T, int K, int ND> void one_image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) {
  constexpr int L = WIDTH<T>;
  if (!call.channels_last && call.channels < (call.input_gradient ? FEW_SUMS : FEW)) return run(Planes<T, K, ND>(call, buffers, t, unit), call);
  if constexpr (L > 4) {
    if (is_tight<T, K, ND>(call, unit)) return Pixels<T, K, ND, 4, true>(call, buffers, t, unit).forward();
    if (call.channels <= 4) return run(Pixels<T, K, ND, 4>(call, buffers, t, unit), call);
  }
  run(Pixels<T, K, ND, L>(call, buffers, t, unit), call);
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
    int64_t unit = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (unit >= call.images * call.parts) return;
    one(call, buffers, t, unit);
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
