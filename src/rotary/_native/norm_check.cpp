// Checks that the loops of norm_loops.cpp give the bits of single operations, each rounded.

#include "norm_check.h"

#include <initializer_list>

namespace rotary {
namespace {

constexpr int kMost = 128;

template <class Number>
struct Slowly {  // one operation at a time: a volatile is stored and read again, so nothing is fused
  static Number times(Number a, Number b) {
    const volatile Number product = a * b;
    return product;
  }
  static Number plus(Number a, Number b) {
    const volatile Number sum = a + b;
    return sum;
  }
  static Number by_halves(Number* t, int count) {
    int whole = kNormLanes;
    while (whole < count) whole *= 2;
    for (int i = count; i < whole; ++i) t[i] = 0;
    for (; whole > 1; whole /= 2)
      for (int i = 0; i < whole / 2; ++i) t[i] = plus(t[i], t[i + whole / 2]);
    return t[0];
  }
  static Number rstd(const Number* v, int channels, Number eps) {
    Number t[kMost];
    for (int i = 0; i < channels; ++i) t[i] = times(v[i], v[i]);
    const Number mean = times(by_halves(t, channels), static_cast<Number>(1.0 / channels));
    const volatile Number root = static_cast<Number>(sizeof(Number) == 4 ? __builtin_sqrtf(static_cast<float>(plus(mean, eps)))
                                                                         : __builtin_sqrt(plus(mean, eps)));
    const volatile Number r = Number{1} / root;
    return r;
  }
  static void turn(Number* v, const Number* cos, const Number* sin, int planes, bool interleaved, bool conjugate) {
    for (int j = 0; j < planes; ++j) {
      const int first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + planes;
      const Number a = v[first], b = v[second], s = conjugate ? -sin[j] : sin[j];
      v[first] = plus(times(a, cos[j]), -times(b, s));
      v[second] = plus(times(b, cos[j]), times(a, s));
    }
  }
};

template <class T>
bool holds(const NormLoops& loops, Dtype dtype, bool interleaved, int channels, int planes) {
  using Number = typename T::Number;
  using By = Slowly<Number>;
  typename T::Stored x[kMost], y[kMost], out[kMost];
  Number cos[kMost], sin[kMost], factor[kMost], v[kMost], g[kMost], t[kMost], sum[kMost];
  std::uint32_t noise = 1;
  const auto next = [&noise] {
    noise = noise * 1664525u + 1013904223u;
    return static_cast<Number>((noise * 0x1p-32 - 0.5) * 0.7390851332151607);
  };
  for (int i = 0; i < kMost; ++i) factor[i] = 0;
  for (int i = 0; i < channels; ++i) x[i] = T::store(next()), y[i] = T::store(next()), factor[i] = next();
  for (int j = 0; j < planes; ++j) cos[j] = next(), sin[j] = next();
  const Number eps = static_cast<Number>(1e-5);
  const NormRow norm{factor, 1e-5, channels, false, false};
  Rectangle rectangle{};
  rectangle.x = reinterpret_cast<const char*>(x), rectangle.y = reinterpret_cast<const char*>(y), rectangle.out = reinterpret_cast<char*>(out);
  rectangle.cos = reinterpret_cast<const char*>(cos), rectangle.sin = reinterpret_cast<const char*>(sin);
  rectangle.rows = 1, rectangle.planes = planes, rectangle.dims = 1, rectangle.dim[0] = Dim{1, 0, 0, 0, 0, 0};

  loops.forward[dtype][interleaved](rectangle, norm, 0, 1);
  for (int i = 0; i < channels; ++i) v[i] = T::load(x[i]), g[i] = T::load(y[i]);
  const Number r = By::rstd(v, channels, eps);
  for (int i = 0; i < channels; ++i) v[i] = By::times(v[i], r), t[i] = By::times(v[i], factor[i]);
  By::turn(t, cos, sin, planes, interleaved, false);
  for (int i = 0; i < channels; ++i)
    if (out[i] != T::store(t[i])) return false;

  loops.backward[dtype][interleaved](rectangle, norm, 0, 1, sum);
  By::turn(g, cos, sin, planes, interleaved, true);
  for (int i = 0; i < channels; ++i)
    if (sum[i] != By::times(g[i], v[i])) return false;
  for (int i = 0; i < channels; ++i) g[i] = By::times(g[i], factor[i]), t[i] = By::times(g[i], v[i]);
  const Number mean = By::times(By::by_halves(t, channels), static_cast<Number>(1.0 / channels));
  for (int i = 0; i < channels; ++i)
    if (out[i] != T::store(By::times(By::plus(g[i], -By::times(v[i], mean)), r))) return false;
  return true;
}

template <class T>
bool holds(const NormLoops& loops, Dtype dtype) {
  for (const int channels : {1, 6, 80, 128})
    for (const bool interleaved : {false, true})
      for (const int planes : {channels / 4, channels / 2})
        if (!holds<T>(loops, dtype, interleaved, channels, planes)) return false;
  return true;
}

}  // namespace

bool norms_round_each(const NormLoops& loops) {
  return holds<Float32>(loops, kFloat32) && holds<Float64>(loops, kFloat64) && holds<BFloat16>(loops, kBFloat16) &&
         holds<Float16>(loops, kFloat16);
}

}  // namespace rotary
