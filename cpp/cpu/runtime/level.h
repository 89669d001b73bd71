// The namespace of every kernel source, named after the instruction set that CMake compiles it for.
// Everything that a kernel source defines lives in that namespace, and it uses no template or
// inline function of the standard library: the linker would keep one copy of such a function for
// all levels, perhaps one with instructions that this processor lacks.
#pragma once

#if !defined(TRANSNEXT_CPU_LEVEL)
#error "compile the CPU kernels through transnext_add_cpu_level (cpp/cmake/CpuLevels.cmake)"
#endif

#define TRANSNEXT_BEGIN_LEVEL namespace transnext::cpu::TRANSNEXT_CPU_LEVEL {
#define TRANSNEXT_END_LEVEL }
