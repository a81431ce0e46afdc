// The chain from a call to pixels for one unit of work after the other (`work`, at the end, which the threads of library.cc
// run). It takes an image, or a part of its output rows, through the three steps: coordinates (coordinates.h), taps (taps.h),
// channels (planes.h or pixels.h). `Planes` does so for few channels, `Pixels` for many; `one_image` chooses.
//
// This file is compiled once for each instruction set. STN_LEVEL is the name of that set, and the namespace of its `work`.
#include "image.h"
#include "pixels.h"

namespace {

// Planes of so many channels and more are transposed to channels side by side. Forward of three to seven took longer so.
constexpr int64_t SIDE_BY_SIDE_FROM = 8;
constexpr int64_t GRADIENT_SIDE_BY_SIDE_FROM = 3;  // the same where the gradient of the input is wanted
// Bytes of a copy of the image with its channels side by side: as many channels are copied together as fit.
constexpr int64_t COPY_BYTES = 256 << 10;
// Bytes of the sums of an input gradient in planes: as many channels are summed together as fit. It bounds the memory.
constexpr int64_t SUMS_BYTES = 16 << 20;

// Samples few channels in planes, by planes.h.
template <class T, int K, int ND> class Planes : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::pitches_, Base::t_;
  static constexpr int PIECE_PIXELS = Taps<T>::PIECE_PIXELS, S = SUMS_PER_PIXEL<K>;

 public:
  Planes(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) : Base(call, buffers, t, unit) {}

  void forward() {
    if (!maps_) return;
    int channels = int(call_.channels);
    const T* u = planes();
    T* row = buffers_.row.template of<T>(channels * PIECE_PIXELS);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      bool direct = this->is_stored_as_computed() && m.samples == 1;  // whether results are written without a copy
      this->over_row_pieces(m, u, 1, channels, [&](RowPiece& r, bool outside) {
        char* to = element(call_, call_.output, this->result_offset(k, 0) + this->first_pixel(r));
        int64_t channel_stride = call_.pixels_out();
        if (outside && !this->has_padding_value_) {
          for (int c = 0; c < channels; c++)
            memset(to + c * channel_stride * call_.bytes_of_number(), 0, r.n * call_.bytes_of_number());
          return;
        }
        if (outside) {
          for (int64_t i = 0; i < r.n; i++) row[i] = T(call_.padding_value);
          stored_as<T>(call_, to, [&](auto* p) {
            for (int c = 0; c < channels; c++) narrow<T>(row, r.n, T(1), p + c * channel_stride);
          });
          return;
        }
        T* at = direct ? reinterpret_cast<T*>(to) : row;
        this->template over_samples<false>(m, r, [&](const RowPiece&, bool more) {
          planes_forward<T, K, ND>(t_, r.n, u, pitches_, channels, at, direct ? channel_stride : PIECE_PIXELS, more);
          if (this->has_padding_value_) sum_outside_weights<T>(t_, r.n, more);
        });
        if (this->has_padding_value_)
          add_padding_value<T>(t_, r.n, call_.padding_value, this->samples_of(m), at, 1, channels,
                               direct ? channel_stride : PIECE_PIXELS);
        if (direct) return;
        stored_as<T>(call_, to, [&](auto* p) {
          for (int c = 0; c < channels; c++) narrow<T>(row + c * PIECE_PIXELS, r.n, this->divisor(m), p + c * channel_stride);
        });
      });
    }
  }

  void backward() {
    const T* u = this->sums_ ? planes() : nullptr;
    int64_t bytes = pitches_.all * S * int64_t(sizeof(T)), together = SUMS_BYTES / (bytes ? bytes : 1);
    if (together < 1) together = 1;
    if (together > call_.channels || !call_.input_gradient) together = call_.channels;
    for (int64_t c = 0; c < call_.channels; c += together)
      backward(u, c, int(together < call_.channels - c ? together : call_.channels - c));
    this->store_theta();
  }

 private:
  // The image as step 3 reads it: itself, or a copy in the type of the computation, as long as a window.
  const T* planes() {
    const void* input = call_.input;
    if (this->is_stored_as_computed() && this->holds_windows())
      return reinterpret_cast<const T*>(element(call_, input, this->image_offset(0)));
    T* copy = buffers_.image.template of<T>(call_.channels * pitches_.all);
    for (int64_t c = 0; c < call_.channels; c++)
      this->over_image_rows(false, [&](int64_t, int64_t, int64_t from, int64_t to) {
        stored_as<T>(call_, element(call_, input, this->image_offset(c) + from),
                     [&](auto* p) { widen<T>(p, call_.in[0], T(1), copy + c * pitches_.all + to); });
      });
    return copy;
  }

  // The gradients of channels [c0, c0 + channels). u is the image, or null if theta's gradient is not wanted.
  void backward(const T* u, int64_t c0, int channels) {
    T* sums = nullptr;
    T(*weights)[4] = nullptr;
    if (call_.input_gradient) {
      sums = buffers_.sums.template of<T>(channels * pitches_.all * S);
      weights = reinterpret_cast<T(*)[4]>(buffers_.weights.template of<T>(4 * PIECE_PIXELS));
      for (int c = 0; c < channels; c++) this->clear(sums + c * pitches_.all * S, S);
    }
    T* row = buffers_.row.template of<T>(channels * PIECE_PIXELS);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      bool direct = this->is_stored_as_computed() && m.samples == 1;  // whether `grad` is read without a copy
      this->over_row_pieces(m, u ? u + c0 * pitches_.all : u, u ? 1 : S, channels, [&](RowPiece& r, bool outside) {
        if (outside) return;
        const char* from = element(call_, call_.grad, this->result_offset(k, c0) + this->first_pixel(r));
        int64_t channel_stride = call_.pixels_out();
        for (int c = 0; c < channels; c++)
          prefetch<0>(from + (c * channel_stride + call_.out[0]) * call_.bytes_of_number(), r.n * call_.bytes_of_number());
        if (!direct)
          stored_as<T>(call_, from, [&](auto* p) {
            for (int c = 0; c < channels; c++)
              widen<T>(p + c * channel_stride, r.n, this->samples_of(m), row + c * PIECE_PIXELS);
          });
        const T* grad = direct ? reinterpret_cast<const T*>(from) : row;
        if (!direct) channel_stride = PIECE_PIXELS;
        this->template over_samples<true>(m, r, [&](const RowPiece& sample, bool) {
          if (u) {
            planes_coordinate_gradient<T, K, ND>(t_, r.n, u + c0 * pitches_.all, pitches_, channels, grad, channel_stride);
            add_derivatives(m, sample, call_, t_, this->sums(k));
            if (this->has_padding_value_ &&
                padding_value_derivatives<T, ND>(t_, r.n, call_.padding_value, grad, 1, channels, channel_stride))
              add_derivatives(m, sample, call_, t_, this->sums(k));
          }
          for (int group = 0; sums && group < TAP_GROUPS<K, ND>; group++) {
            if (K > 1) group_weights<T, K, ND>(t_, r.n, group, weights);
            for (int c = 0; c < channels; c++)
              planes_input_gradient<T, K, ND>(t_, r.n, group, weights, grad + c * channel_stride, pitches_,
                                              sums + c * pitches_.all * S);
          }
        });
      });
    }
    if (sums) store_input(sums, c0, channels);
  }

  // Writes the gradient of the input for these channels.
  void store_input(const T* sums, int64_t c0, int channels) {
    int64_t n = call_.in[0];
    T* row = buffers_.row.template of<T>(n);
    for (int c = 0; c < channels; c++)
      this->over_image_rows(true, [&](int64_t y, int64_t z, int64_t at, int64_t) {
        auto has = [&](int64_t y) { return this->in_box(1, y) && this->in_box(2, z); };
        char* to = element(call_, call_.input_gradient, this->image_offset(c0 + c) + at);
        T* folded = this->is_stored_as_computed() ? reinterpret_cast<T*>(to) : row;
        input_gradient_row<T, K>(sums + (c * pitches_.all + z * pitches_.slice) * S, pitches_, y, n, has, folded);
        if (!this->is_stored_as_computed()) stored_as<T>(call_, to, [&](auto* p) { narrow<T>(row, n, T(1), p); });
      });
  }
};

// Whether pixels can be read where they lie: their channels lie side by side, in the type of the computation, and no axis of
// the image is shorter than a window.
template <class T, int K, int ND> bool are_read_in_place(const Call& call) {
  bool windows = call.in[0] >= K && call.in[1] >= K && (ND == 2 || call.in[2] >= K);
  return call.channels_last && call.storage == (sizeof(T) == 4 ? FLOAT32 : FLOAT64) && windows && call.samples == 1;
}

// Samples channels side by side, by pixels.h. Where pixels can be read where they lie, it works on all channels there. Else
// it copies as many channels as fit COPY_BYTES into that form, and works on those. THREE_AS_FOUR is for forward alone: pixels
// of three channels are read and written where they lie, by vectors of L = 4.
template <class T, int K, int ND, int L, bool THREE_AS_FOUR = false> class Pixels : Image<T, K, ND> {
  typedef Image<T, K, ND> Base;
  using Base::buffers_, Base::call_, Base::maps_, Base::pitches_, Base::t_;
  static constexpr int PIECE_PIXELS = Taps<T>::PIECE_PIXELS;
  bool direct_;     // whether pixels are read and written where they lie
  int64_t stride_;  // numbers from a pixel to the next one, no fewer than L unless THREE_AS_FOUR

 public:
  Pixels(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) : Base(call, buffers, t, unit) {
    direct_ = THREE_AS_FOUR || (are_read_in_place<T, K, ND>(call) && call.channels >= L);
    int64_t fit = COPY_BYTES / (pitches_.all * int64_t(sizeof(T))) / L * L, all = (call.channels + L - 1) / L * L;
    stride_ = direct_ ? call.channels : fit > all ? all : fit > L ? fit : L;
  }

  void forward() {
    if (!maps_) return;
    T* row = buffers_.row.template of<T>(PIECE_PIXELS * stride_);
    for (int64_t c = 0; c < call_.channels; c += stride_) {
      const T* u = pixels(c);
      for (int64_t k = 0; k < maps_; k++) {
        Map<T> m = this->map(k);
        read_results(call_.output, k, c);
        // Output pixels [first, end) wait in `row`, to be stored channel by channel.
        int64_t first = this->from_ * call_.out[0], end = first;
        auto store = [&](int64_t next) {
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            put(row + b - c, b, call_.pixels_out(), end - first, this->divisor(m), result(call_.output, k, b, first));
          first = next;
        };
        this->over_row_pieces(m, u, stride_, 1, [&](RowPiece& r, bool outside) {
          int64_t pixel = this->first_pixel(r);
          if (!direct_ && (pixel != end || pixel + r.n - first > PIECE_PIXELS)) store(pixel);
          end = pixel + r.n;
          T* at = direct_ ? reinterpret_cast<T*>(result(call_.output, k, 0, pixel)) : row + (pixel - first) * stride_;
          if (outside && !this->has_padding_value_) {
            memset(at, 0, r.n * stride_ * sizeof(T));
          } else if (outside) {
            for (int64_t i = 0; i < r.n * stride_; i++) at[i] = T(call_.padding_value);
          } else {
            this->template over_samples<false>(m, r, [&](const RowPiece&, bool more) {
              pixels_forward<T, K, ND, L, THREE_AS_FOUR>(t_, r.n, u, pitches_, stride_, lanes(c), at, more);
              if (this->has_padding_value_) sum_outside_weights<T>(t_, r.n, more);
            });
            if (this->has_padding_value_)
              add_padding_value<T>(t_, r.n, call_.padding_value, this->samples_of(m), at, stride_, lanes(c), 1);
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
  // How many channels from c on are worked on together, at most `most`.
  int64_t width(int64_t c, int64_t most) const { return call_.channels - c < most ? call_.channels - c : most; }
  template <class P> auto result(P* p, int64_t k, int64_t c, int64_t pixel) const {
    return element(call_, p, this->result_offset(k, c) + this->pixel_offset(pixel));
  }
  // How many numbers of a pixel are worked on. In a copy, and with THREE_AS_FOUR, they are rounded up to whole vectors.
  int64_t lanes(int64_t c) const { return direct_ && !THREE_AS_FOUR ? stride_ : (width(c, stride_) + L - 1) / L * L; }
  // `get` copies L channels, from c on, of n pixels from the tensor at `from` into a row of pixels of `stride_` numbers;
  // `put` copies them back. `pixels` is the number of pixels of a plane.
  void get(const char* from, int64_t c, int64_t pixels, int64_t n, T divisor, T* row) const {
    stored_as<T>(call_, from, [&](auto* p) {
      load_pixels<T, L>(p, this->layout(pixels, c), int(width(c, L)), n, divisor, row, stride_);
    });
  }
  void put(const T* row, int64_t c, int64_t pixels, int64_t n, T divisor, char* to) const {
    stored_as<T>(call_, to, [&](auto* p) {
      store_pixels<T, L>(row, stride_, this->layout(pixels, c), int(width(c, L)), call_.channels <= L, n, divisor, p);
    });
  }
  // Reads planes in the order of memory before they are brought side by side, or written from there: `count` pixels from
  // number `first` on, of the channels from c on. Reading a few pixels of L planes in turn defeats the processor's own
  // prefetching.
  void read_planes(const void* p, int64_t start, int64_t c, int64_t pixels, int64_t first, int64_t count) const {
    int64_t channels = call_.channels_last ? call_.channels : width(c, stride_);
    if ((call_.channels_last && c > 0) || channels * count * call_.bytes_of_number() > READ_AHEAD_BYTES) return;
    if (call_.channels_last)
      return read_in_order(element(call_, p, start + first * channels), channels * count * call_.bytes_of_number());
    for (int64_t k = 0; k < channels; k++)
      read_in_order(element(call_, p, start + k * pixels + first), count * call_.bytes_of_number());
  }
  void read_results(const void* p, int64_t k, int64_t c) const {
    int64_t row = call_.out[0];
    if (!direct_)
      read_planes(p, this->result_offset(k, c), c, call_.pixels_out(), this->from_ * row, (this->to_ - this->from_) * row);
  }
  // The image as step 3 reads it: itself, or a copy of the channels from c on, side by side.
  const T* pixels(int64_t c) {
    const void* input = call_.input;
    if (direct_) return reinterpret_cast<const T*>(element(call_, input, this->image_offset(0)));
    T* copy = buffers_.image.template of<T>(pitches_.all * stride_);
    int64_t end = this->box_.to[1] < call_.in[1] ? this->box_.to[1] : call_.in[1];
    int64_t together = this->holds_windows() ? end - this->box_.from[1] : 1;  // rows that follow each other in the copy, too
    for (int64_t z = this->box_.from[2]; z < this->box_.to[2] && z < call_.in[2]; z++)
      for (int64_t y = this->box_.from[1]; y < end; y += together) {
        int64_t first = (z * call_.in[1] + y) * call_.in[0], count = together * call_.in[0];
        T* to = copy + (z * pitches_.slice + y * pitches_.row) * stride_;
        read_planes(input, this->image_offset(c), c, call_.pixels_in(), first, count);
        for (int64_t b = c; b < c + width(c, stride_); b += L)
          get(element(call_, input, this->image_offset(b) + this->pixel_offset(first)), b, call_.pixels_in(), count, T(1),
              to + b - c);
      }
    return copy;
  }

  // The gradients of the channels from c on that are worked on together.
  void backward(int64_t c) {
    const T* u = this->sums_ ? pixels(c) : nullptr;
    T* sums = nullptr;
    if (call_.input_gradient && direct_) {
      sums = reinterpret_cast<T*>(element(call_, call_.input_gradient, this->image_offset(0)));
      memset(sums, 0, pitches_.all * stride_ * sizeof(T));
    } else if (call_.input_gradient) {
      sums = buffers_.sums.template of<T>(pitches_.all * stride_);
      this->clear(sums, stride_);
    }
    T* row = buffers_.row.template of<T>(PIECE_PIXELS * stride_);
    for (int64_t k = 0; k < maps_; k++) {
      Map<T> m = this->map(k);
      read_results(call_.grad, k, c);
      int64_t first = 0, end = 0;  // pixels of the output whose gradients are in `row`
      this->over_row_pieces(m, u, stride_, 1, [&](RowPiece& r, bool outside) {
        if (outside) return;
        int64_t pixel = this->first_pixel(r);
        if (!direct_ && (pixel < first || pixel + r.n > end)) {
          first = pixel, end = pixel + PIECE_PIXELS < call_.pixels_out() ? pixel + PIECE_PIXELS : call_.pixels_out();
          for (int64_t b = c; b < c + width(c, stride_); b += L)
            get(result(call_.grad, k, b, first), b, call_.pixels_out(), end - first, this->samples_of(m), row + b - c);
        }
        const T* grad = direct_ ? reinterpret_cast<const T*>(result(call_.grad, k, 0, pixel))
                                : row + (pixel - first) * stride_;
        this->template over_samples<true>(m, r, [&](const RowPiece& sample, bool) {
          if (u) pixels_theta_gradient<T, K, ND, L>(t_, m, sample, call_, u, pitches_, stride_, lanes(c), grad, this->sums(k));
          if (u && this->has_padding_value_ &&
              padding_value_derivatives<T, ND>(t_, r.n, call_.padding_value, grad, stride_, width(c, stride_), 1))
            add_derivatives(m, sample, call_, t_, this->sums(k));
          if (sums) pixels_input_gradient<T, K, ND, L>(t_, r.n, grad, pitches_, stride_, lanes(c), sums);
        });
      });
    }
    if (sums && !direct_) store_input(sums, c);
  }

  // Writes the gradient of the input for these channels; rows outside the box of the image are 0.
  void store_input(T* sums, int64_t c) {
    int64_t n = call_.in[0];
    T* nothing = buffers_.row.template of<T>((n > PIECE_PIXELS ? n : PIECE_PIXELS) * stride_);
    memset(nothing, 0, n * stride_ * sizeof(T));
    read_planes(call_.input_gradient, this->image_offset(c), c, call_.pixels_in(), 0, call_.pixels_in());
    for (int64_t b = c; b < c + width(c, stride_); b += L)
      this->over_image_rows(true, [&](int64_t y, int64_t z, int64_t at, int64_t row) {
        bool has = this->in_box(1, y) && this->in_box(2, z);
        put(has ? sums + row * stride_ + b - c : nothing, b, call_.pixels_in(), n, T(1),
            element(call_, call_.input_gradient, this->image_offset(b) + this->pixel_offset(at)));
      });
  }
};

template <class Run> void run(Run image, const Call& call) { call.is_forward() ? image.forward() : image.backward(); }

// Whether three channels can be read as four where they lie. The fourth number of the last pixel must exist, so that another
// image must follow.
template <class T, int K, int ND> bool can_read_three_as_four(const Call& call, int64_t unit) {
  bool another_follows = unit / call.row_parts + 1 < call.images;
  return call.is_forward() && call.channels == 3 && call.padding_value == 0 && another_follows && are_read_in_place<T, K, ND>(call);
}

// Chooses how a unit of work is sampled.
template <class T, int K, int ND> void one_image(const Call& call, Buffers& buffers, Taps<T>& t, int64_t unit) {
  constexpr int L = WIDTH<T>;
  if (!call.channels_last && call.channels < (call.input_gradient ? GRADIENT_SIDE_BY_SIDE_FROM : SIDE_BY_SIDE_FROM))
    return run(Planes<T, K, ND>(call, buffers, t, unit), call);
  if constexpr (L > 4) {
    if (can_read_three_as_four<T, K, ND>(call, unit)) return Pixels<T, K, ND, 4, true>(call, buffers, t, unit).forward();
    if (call.channels <= 4) return run(Pixels<T, K, ND, 4>(call, buffers, t, unit), call);
  }
  run(Pixels<T, K, ND, L>(call, buffers, t, unit), call);
}

// Works on one unit after the other until none is left.
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
    if (unit >= call.images * call.row_parts) return;
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
