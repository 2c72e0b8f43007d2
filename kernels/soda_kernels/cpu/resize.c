/* Boxes of images, resized and mirrored as Pillow does it: first along rows, then along columns, each result a weighted
   sum of levels in fixed point. An image: (height, width, 3) bytes, RGB. */

#include "cpu.h"

enum { PRECISION_BITS = 22, LANES = 64 };

/* `lanes` results side by side: each the sum of levels, `stride` bytes apart, times their weights. */
PART void weigh_some(uint8_t *restrict results, const uint8_t *restrict levels, int64_t stride,
                     const int32_t *restrict weights, int64_t taps, int64_t lanes)
{
    int32_t totals[LANES];
    for (int64_t lane = 0; lane < lanes; lane++)
        totals[lane] = 1 << (PRECISION_BITS - 1);
    for (int64_t tap = 0; tap < taps; tap++) {
        const int32_t weight = weights[tap];
        if (!weight) /* perhaps beyond the last pixel */
            continue;
        for (int64_t lane = 0; lane < lanes; lane++)
            totals[lane] += weight * levels[tap * stride + lane];
    }
    for (int64_t lane = 0; lane < lanes; lane++) {
        const int32_t level = totals[lane] >> PRECISION_BITS;
        results[lane] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
    }
}

PART void weigh(uint8_t *restrict results, const uint8_t *restrict levels, int64_t stride,
                const int32_t *restrict weights, int64_t taps, int64_t count)
{
    int64_t done = 0;
    for (; done + LANES <= count; done += LANES)
        weigh_some(results + done, levels + done, stride, weights, taps, LANES);
    weigh_some(results + done, levels + done, stride, weights, taps, count - done);
}

/* Rows of pixels to columns, or back: to[x][y] = from[y][x]. stride: bytes from a row of `from` to the next. */
PART void transpose(uint8_t *restrict to, const uint8_t *restrict from, int64_t stride, int64_t rows, int64_t columns)
{
    for (int64_t x = 0; x < columns; x++)
        for (int64_t y = 0; y < rows; y++, to += 3)
            for (int64_t channel = 0; channel < 3; channel++)
                to[channel] = from[y * stride + 3 * x + channel];
}

/* views: (count, size, size, 3). images: (count, height, width, 3). boxes: (count, 5): top, left, height, width of a
   box inside of its image, and whether it is mirrored. first: (longest + 1, size) and weights: (longest + 1, size, taps),
   for boxes of each length the first of the pixels that count, and for how much. spare: room for
   3 (height width + 2 height size) bytes. */
FOR_EACH_PROCESSOR
void resize_boxes(uint8_t *restrict views, uint8_t *restrict spare, const uint8_t *restrict images,
                  const int64_t *restrict boxes, const int64_t *restrict first, const int32_t *restrict weights,
                  int64_t count, int64_t height, int64_t width, int64_t size, int64_t taps)
{
    uint8_t *columns = spare, *wide_columns = columns + 3 * height * width, *wide = wide_columns + 3 * height * size;
    for (int64_t n = 0; n < count; n++, images += 3 * height * width, boxes += 5) {
        const int64_t top = boxes[0], left = boxes[1], rows = boxes[2], along = boxes[3], mirrored = boxes[4];
        /* Columns lie one after the other, so that a whole one is summed up at once, as are rows below. */
        transpose(columns, images + 3 * (top * width + left), 3 * width, rows, along);
        for (int64_t x = 0; x < size; x++)
            weigh(wide_columns + 3 * rows * (mirrored ? size - 1 - x : x), columns + 3 * rows * first[along * size + x],
                  3 * rows, weights + (along * size + x) * taps, taps, 3 * rows);
        transpose(wide, wide_columns, 3 * rows, size, rows);
        for (int64_t y = 0; y < size; y++, views += 3 * size)
            weigh(views, wide + 3 * size * first[rows * size + y], 3 * size, weights + (rows * size + y) * taps, taps,
                  3 * size);
    }
}
