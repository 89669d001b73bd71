// Compiles where the library's own sources do: what they need of a compiler and of its system, in short.
#include <dlfcn.h>
#include <pthread.h>
#include <string>
#include <thread>
#include <type_traits>

#if !defined(__GNUC__) || !defined(__has_builtin)
#error the kernels need the vector types of GCC (10 or newer) or Clang
#endif

typedef float Vector __attribute__((vector_size(16)));
typedef int Integers __attribute__((vector_size(16)));

template <class V>
V converted(V vector) {
  if constexpr (std::is_same_v<V, Vector>) {
    vector = __builtin_convertvector(__builtin_convertvector(vector, Integers), Vector);
    vector = vector > 0.0f ? vector : -vector;
  }
  return vector;
}

float first(float x) {
  return converted(Vector{} + x)[0] + static_cast<float>(std::string("x").size());
}
