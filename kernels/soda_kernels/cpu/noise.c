/* Counter-based normal numbers. Logarithms, roots, sines and cosines stay PyTorch's (whose roots are not
   always the nearest number). */

#include "cpu.h"

PART float unit(uint32_t word) { return ((float)word + 0.5f) * 0x1p-32f; }

/* Philox4x32-10 (Salmon et al., SC 2011) at counter (block, stream, low and high half of the position).

   units, angles: (2, rows, blocks); of each block's four words the first and the third in (0, 1], the second and the
   fourth as angles in (0, 2 pi]. */
FOR_EACH_PROCESSOR
void draw_polar(float *restrict units, float *restrict angles, const int64_t *restrict positions, int64_t rows,
                int64_t blocks, uint32_t key0, uint32_t key1, uint32_t stream)
{
    const float turn = (float)6.283185307179586;
    for (int64_t row = 0; row < rows; row++) {
        const uint32_t low = (uint32_t)positions[row], high = (uint32_t)(positions[row] >> 32);
        float *restrict unit0 = units + row * blocks, *restrict unit1 = unit0 + rows * blocks;
        float *restrict angle0 = angles + row * blocks, *restrict angle1 = angle0 + rows * blocks;
        for (uint32_t block = 0; block < (uint32_t)blocks; block++) {
            uint32_t c0 = block, c1 = stream, c2 = low, c3 = high, k0 = key0, k1 = key1;
            for (int round = 0; round < 10; round++) {
                const uint64_t product0 = (uint64_t)0xD2511F53u * c0, product1 = (uint64_t)0xCD9E8D57u * c2;
                c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
                c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
                c1 = (uint32_t)product1;
                c3 = (uint32_t)product0;
                k0 += 0x9E3779B9u;
                k1 += 0xBB67AE85u;
            }
            unit0[block] = unit(c0);
            angle0[block] = unit(c1) * turn;
            unit1[block] = unit(c2);
            angle1[block] = unit(c3) * turn;
        }
    }
}

/* Box and Muller's pairs: normals (blocks, 2, 2) from radii, cosines and sines (2, blocks). */
FOR_EACH_PROCESSOR
void join_pairs(float *restrict normals, const float *restrict radii, const float *restrict cosines,
                const float *restrict sines, int64_t blocks)
{
    for (int64_t block = 0; block < blocks; block++) {
        const float radius0 = radii[block], radius1 = radii[blocks + block];
        normals[4 * block] = cosines[block] * radius0;
        normals[4 * block + 1] = sines[block] * radius0;
        normals[4 * block + 2] = cosines[blocks + block] * radius1;
        normals[4 * block + 3] = sines[blocks + block] * radius1;
    }
}
