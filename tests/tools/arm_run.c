// Maps an image of a plan's arrays at the addresses they had where it was made, and runs its driver; see arm.py.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "functions.h"

static FILE *image;

static int64_t *numbers(size_t count) {
    int64_t *values = malloc(count * 8 + 8);
    if (fread(values, 8, count, image) != count) exit(3);
    return values;
}

int main(int argc, char **argv) {
    if (argc != 3 || !(image = fopen(argv[1], "rb"))) return 2;
    // function, job, rows, address of the two pointers, result, its bytes, numbers of stretches, arrays and patches
    int64_t *head = numbers(9);
    int64_t *spans = numbers(2 * head[6]);
    int64_t *patches = numbers(2 * head[8]);
    for (int64_t i = 0; i < head[6]; i++) {
        void *at = (void *)spans[2 * i];
        size_t size = spans[2 * i + 1] - spans[2 * i];
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        if (mmap(at, size, PROT_READ | PROT_WRITE, flags, -1, 0) != at) return 4;
    }
    for (int64_t i = 0; i < head[7]; i++) {
        int64_t *array = numbers(2);
        if (fread((void *)array[0], 1, array[1], image) != (size_t)array[1]) return 5;
    }
    for (int64_t i = 0; i < head[8]; i++) *(void **)patches[2 * i] = functions[patches[2 * i + 1]];
    int64_t (*drive)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) = functions[head[0]];
    if (drive(0, head[1], 0, head[2], head[3], head[3] + 8) == 0) return 6;
    FILE *result = fopen(argv[2], "wb");
    if (!result || fwrite((void *)head[4], 1, head[5], result) != (size_t)head[5] || fclose(result)) return 7;
    return 0;
}
