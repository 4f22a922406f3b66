/*
 * Runs the network of net.h on samples in a text file, and compares with the scores given there.
 *
 *     cc -std=c99 -O3 -march=native net_runner.c -o net_runner      (without -march=native for other machines, too)
 *     ./net_runner net_vectors.txt              the class of every sample, or of its pixels
 *     ./net_runner --scores net_vectors.txt     all scores of a sample, separated by tabs
 *
 * A sample is NET_INPUTS numbers; after them may come a colon and all scores that are expected, equal to the last bit.
 * Blanks and ends of lines separate numbers, C's hexadecimal floats are understood, and from a # on the rest of a line is a
 * comment.  Without a file, samples come from standard input.
 *
 * Exit codes: 0 fine, 1 a score differs from the expected one, 2 wrong use or bad input.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

#ifndef NET_PIXELS /* else each pixel has scores, and a class */
#define NET_PIXELS 1
#define PREDICT(input, classes) (*(classes) = net_predict(input))
#else
#define PREDICT net_predict
#endif
#define SCORES (NET_PIXELS * NET_CLASSES)

static long sample; /* number of the current one, from 0 */

static void fail(const char *what)
{
    fprintf(stderr, "error: sample %ld: %s\n", sample, what);
    exit(2);
}

/* The next character that is neither blank nor in a comment, still unread, or EOF. */
static int peek(FILE *file)
{
    int c = getc(file);
    while (c == '#' || isspace(c)) {
        if (c == '#')
            while (c != '\n' && c != EOF)
                c = getc(file);
        if (c != EOF)
            c = getc(file);
    }
    return ungetc(c, file);
}

static float number(FILE *file)
{
    char text[64];
    char *end = text;
    if (peek(file) == EOF)
        fail("the file ends within it");
    if (fscanf(file, "%63[^ \t\r\n#:]", text) != 1)
        fail("a number is missing");
    const float value = strtof(text, &end);
    if (*end != '\0' || end == text + 63)
        fail("holds something that is no number");
    return value;
}

/* One input value, checked: the network itself takes whatever it gets. */
static net_input input_value(FILE *file)
{
    const float value = number(file);
    if (!(INPUT_CHECK))
        fail("has an input that is out of range");
    return (net_input)value;
}

/* Whether two scores are equal; a NaN equals a NaN. */
static int same(float a, float b)
{
    return a == b || (a != a && b != b);
}

int main(int count, char **arguments)
{
    static net_input input[NET_INPUTS];
    static float scores[SCORES], expected[SCORES];
    static int classes[NET_PIXELS];
    const int with_scores = count > 1 && strcmp(arguments[1], "--scores") == 0;
    const int named = count > 1 + with_scores;
    FILE *file = named ? fopen(arguments[1 + with_scores], "r") : stdin;
    long compared = 0, different = 0;
    if (file == NULL || count > 2 + with_scores) {
        fprintf(stderr, file == NULL ? "error: cannot open the file\n" : "usage: net_runner [--scores] [FILE]\n");
        return 2;
    }
    for (sample = 0; peek(file) != EOF; sample++) {
        for (size_t k = 0; k < NET_INPUTS; k++)
            input[k] = input_value(file);
        PREDICT(input, classes);
        net_scores(input, scores);
        if (with_scores)
            for (long k = 0; k < SCORES; k++)
                printf("%.9g%c", (double)scores[k], k + 1 < SCORES ? '\t' : '\n');
        else
            for (long k = 0; k < NET_PIXELS; k++)
                printf("%d%c", classes[k], k + 1 < NET_PIXELS ? '\t' : '\n');
        if (peek(file) != ':')
            continue;
        (void)getc(file);
        int equal = 1;
        for (long k = 0; k < SCORES; k++) {
            expected[k] = number(file);
            equal = equal && same(scores[k], expected[k]);
        }
        for (long k = 0; k < NET_PIXELS; k++)
            equal = equal && classes[k] == net_class_of(expected + k * NET_CLASSES);
        compared++;
        if (!equal) {
            fprintf(stderr, "sample %ld: scores differ from the expected ones\n", sample);
            different++;
        }
    }
    if (ferror(file))
        fail("cannot be read");
    fclose(file);
    fprintf(stderr, "%ld samples, %ld compared, %ld different\n", sample, compared, different);
    return different ? 1 : 0;
}
