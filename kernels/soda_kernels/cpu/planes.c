/* From the levels of pixels to planes of numbers. */

#include "cpu.h"

/* images of (pixels, 3) levels to (3, pixels) numbers, from a table (3, 256). */
void fill_planes(float *restrict planes, const uint8_t *restrict levels, const float *restrict table, int64_t images,
                 int64_t pixels)
{
    for (int64_t image = 0; image < images; image++, planes += 3 * pixels, levels += 3 * pixels)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            for (int64_t channel = 0; channel < 3; channel++)
                planes[channel * pixels + pixel] = table[256 * channel + levels[3 * pixel + channel]];
}
