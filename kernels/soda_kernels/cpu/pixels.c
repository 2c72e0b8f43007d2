/* Changes of the levels of images, as Pillow makes them: each image is read and written while it lies in the first
   cache. An image: (size, size, 3) bytes, RGB. */

#include "cpu.h"

#include <string.h>

/* `Step` in view_operations/steps.py, which says what the numbers of each are. */
enum step {
    IDENTITY, WARP, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTO_CONTRAST, EQUALIZE, HUE, GRAYSCALE
};
enum { FIELDS = 7 };

PART uint8_t grey(const uint8_t *pixel)
{
    return (uint8_t)((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
}

/* From `start` towards `level` and, with factors above 1, beyond; cut towards zero. */
PART uint8_t blend(uint8_t level, float start, float factor)
{
    const float mixed = ((float)level - start) * factor + start;
    const float positive = mixed < 0.0f ? 0.0f : mixed;
    return (uint8_t)(int32_t)(positive > 255.0f ? 255.0f : positive);
}

PART void blend_all(uint8_t *image, float start, float factor, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++)
        image[i] = blend(image[i], start, factor);
}

PART void fill_grey(uint8_t *restrict greys, const uint8_t *restrict image, int64_t pixels)
{
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        greys[3 * pixel] = greys[3 * pixel + 1] = greys[3 * pixel + 2] = grey(image + 3 * pixel);
}

PART void color(uint8_t *restrict image, uint8_t *restrict greys, float factor, int64_t pixels)
{
    fill_grey(greys, image, pixels);
    for (int64_t i = 0; i < 3 * pixels; i++)
        image[i] = blend(image[i], greys[i], factor);
}

PART void contrast(uint8_t *image, float factor, int64_t pixels)
{
    int64_t total = 0;
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        total += grey(image + 3 * pixel);
    blend_all(image, (float)((2 * total + pixels) / (2 * pixels)), factor, 3 * pixels);
}

/* Blends with Pillow's SMOOTH, the mean of 3x3 pixels with the middle one counted five times. The border stays. */
PART void sharpness(uint8_t *restrict image, uint8_t *restrict sharp, float factor, int64_t size)
{
    const int64_t row = 3 * size;
    for (int64_t y = 1; y < size - 1; y++) {
        const uint8_t *above = image + (y - 1) * row, *here = above + row, *below = here + row;
        for (int64_t i = 3; i < row - 3; i++) {
            const int32_t total = above[i - 3] + above[i] + above[i + 3] + here[i - 3] + 5 * here[i] + here[i + 3]
                                  + below[i - 3] + below[i] + below[i + 3];
            sharp[y * row + i] = blend(here[i], (float)((uint16_t)(2 * total + 13) / 26), factor);
        }
    }
    for (int64_t y = 1; y < size - 1; y++)
        memcpy(image + y * row + 3, sharp + y * row + 3, (size_t)(row - 6));
}

PART void posterize(uint8_t *image, uint8_t mask, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++)
        image[i] &= mask;
}

/* Inverts from level `first` on; 256: nothing. */
PART void solarize(uint8_t *image, int64_t first, int64_t bytes)
{
    if (first > 255)
        return;
    const uint8_t bound = (uint8_t)first;
    for (int64_t i = 0; i < bytes; i++)
        image[i] = image[i] >= bound ? (uint8_t)(255 - image[i]) : image[i];
}

PART void look_levels_up(uint8_t *image, uint8_t tables[3][256], int64_t pixels)
{
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        for (int64_t channel = 0; channel < 3; channel++)
            image[3 * pixel + channel] = tables[channel][image[3 * pixel + channel]];
}

PART void widen_ranges(uint8_t *restrict low, uint8_t *restrict high, const uint8_t *restrict levels, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        low[i] = levels[i] < low[i] ? levels[i] : low[i];
        high[i] = levels[i] > high[i] ? levels[i] : high[i];
    }
}

/* The darkest and the brightest level of each channel, in low[0..2] and high[0..2]. */
enum { LANES = 48 }; /* of pixels side by side: a processor compares many levels at once */
PART void find_ranges(uint8_t low[LANES], uint8_t high[LANES], const uint8_t *image, int64_t bytes)
{
    int64_t done = 0;
    memset(low, 255, LANES);
    memset(high, 0, LANES);
    for (; done + LANES <= bytes; done += LANES)
        widen_ranges(low, high, image + done, LANES);
    widen_ranges(low, high, image + done, bytes - done);
    for (int64_t lane = 3; lane < LANES; lane++) {
        low[lane % 3] = low[lane] < low[lane % 3] ? low[lane] : low[lane % 3];
        high[lane % 3] = high[lane] > high[lane % 3] ? high[lane] : high[lane % 3];
    }
}

/* Each channel stretched to 0..255, in float64 as Pillow does it in Python. */
PART void auto_contrast(uint8_t *image, int64_t pixels)
{
    uint8_t low[LANES], high[LANES], tables[3][256];
    find_ranges(low, high, image, 3 * pixels);
    for (int64_t channel = 0; channel < 3; channel++) {
        const double darkest = low[channel], span = high[channel] - darkest;
        const double scale = span > 0.0 ? 255.0 / span : 1.0, shift = span > 0.0 ? -darkest * scale : 0.0;
        for (int32_t level = 0; level < 256; level++) {
            const double stretched = level * scale + shift, positive = stretched < 0.0 ? 0.0 : stretched;
            tables[channel][level] = (uint8_t)(int32_t)(positive > 255.0 ? 255.0 : positive);
        }
    }
    look_levels_up(image, tables, pixels);
}

/* Each channel's histogram made flat. */
PART void equalize(uint8_t *image, int64_t pixels)
{
    uint32_t counts[3][256] = {{0}};
    uint8_t tables[3][256];
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        for (int64_t channel = 0; channel < 3; channel++)
            counts[channel][image[3 * pixel + channel]]++;
    for (int64_t channel = 0; channel < 3; channel++) {
        int32_t brightest = 255;
        while (!counts[channel][brightest])
            brightest--;
        const uint32_t step = ((uint32_t)pixels - counts[channel][brightest]) / 255;
        uint32_t sum = step / 2;
        for (int32_t level = 0; level < 256; level++) {
            const uint32_t flat = step ? sum / step : (uint32_t)level;
            tables[channel][level] = (uint8_t)(flat > 255 ? 255 : flat);
            sum += counts[channel][level];
        }
    }
    look_levels_up(image, tables, pixels);
}

/* Nearest neighbours, black outside. map: a, b, c, d, e, f in 16.16 fixed point; pixel (x, y) of the result shows pixel
   (a x + b y + c, d x + e y + f). */
PART void warp(uint8_t *restrict image, uint8_t *restrict before, const int32_t *map, int64_t size)
{
    const int64_t a = map[0], b = map[1], c = map[2], d = map[3], e = map[4], f = map[5];
    memcpy(before, image, (size_t)(3 * size * size));
    for (int64_t y = 0; y < size; y++, image += 3 * size) {
        int64_t source_x = b * y + c, source_y = e * y + f;
        if (a == 1 << 16 && d == 0) { /* the row is a piece of one row */
            const int64_t shift = source_x >> 16, row = source_y >> 16;
            const int64_t start = shift < 0 ? -shift : 0, end = shift > 0 ? size - shift : size;
            memset(image, 0, (size_t)(3 * size));
            if (start < end && row >= 0 && row < size)
                memcpy(image + 3 * start, before + 3 * (row * size + start + shift), (size_t)(3 * (end - start)));
            continue;
        }
        for (int64_t x = 0; x < size; x++, source_x += a, source_y += d) {
            const int64_t column = source_x >> 16, row = source_y >> 16;
            if (column >= 0 && column < size && row >= 0 && row < size)
                memcpy(image + 3 * x, before + 3 * (row * size + column), 3);
            else
                memset(image + 3 * x, 0, 3);
        }
    }
}

/* One step for each image, in place. steps: a step and its numbers for each. spare: room for one image. */
FOR_EACH_PROCESSOR
void change_images(uint8_t *restrict images, uint8_t *restrict spare, const int32_t *restrict steps, int64_t count,
                   int64_t size)
{
    const int64_t pixels = size * size;
    for (int64_t n = 0; n < count; n++, images += 3 * pixels, steps += FIELDS) {
        const int32_t *numbers = steps + 1;
        float factor;
        memcpy(&factor, numbers, sizeof factor); /* of the steps that have one */
        switch ((enum step)steps[0]) {
        case IDENTITY: break;
        case WARP: warp(images, spare, numbers, size); break;
        case BRIGHTNESS: blend_all(images, 0.0f, factor, 3 * pixels); break;
        case COLOR: color(images, spare, factor, pixels); break;
        case CONTRAST: contrast(images, factor, pixels); break;
        case SHARPNESS: sharpness(images, spare, factor, size); break;
        case POSTERIZE: posterize(images, (uint8_t)numbers[0], 3 * pixels); break;
        case SOLARIZE: solarize(images, numbers[0], 3 * pixels); break;
        case AUTO_CONTRAST: auto_contrast(images, pixels); break;
        case EQUALIZE: equalize(images, pixels); break;
        case HUE: break; /* PyTorch's */
        case GRAYSCALE:
            fill_grey(spare, images, pixels);
            memcpy(images, spare, (size_t)(3 * pixels));
            break;
        }
    }
}
