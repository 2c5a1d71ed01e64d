/* A correction of GCC's AMX intrinsics, found before GCC's own header because .cargo/config.toml puts this
   folder first.

   GCC's `_tile_loadconfig` (seen in 12.2) tells the compiler that it reads 8 of the 64 bytes of a tile
   configuration. The stores to the other 56 are then dropped as dead, and the first AMX instruction ends the
   process with SIGILL: in llama.cpp at the first matrix product. This one names all 64. */
#include_next <amxtileintrin.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
static __inline__ __attribute__((__always_inline__)) void halny_tile_loadconfig(const void *config) {
    struct configuration {
        char bytes[64];
    };
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const struct configuration *)config));
}
#undef _tile_loadconfig
#define _tile_loadconfig(config) halny_tile_loadconfig(config)
#endif
