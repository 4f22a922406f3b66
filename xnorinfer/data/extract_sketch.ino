/*
 * Runs the network on one sample, again and again, and prints its class, or those of its pixels, and how long it took.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif
#define NET_SCRATCH static /* its buffers are not on the stack, which is small on many boards */
#include <net.h>

SAMPLE

#ifndef NET_PIXELS
#define NET_PIXELS 1
#define PREDICT(input, classes) (*(classes) = net_predict(input))
#else
#define PREDICT net_predict
#endif

void setup()
{
    Serial.begin(115200);
}

void loop()
{
    static int found[NET_PIXELS];
    int equal = 1;
    const unsigned long start = micros();
    PREDICT(sample, found);
    const unsigned long took = micros() - start;
    Serial.print("class");
    for (int k = 0; k < NET_PIXELS; k++) {
        Serial.print(" ");
        Serial.print(found[k]);
        equal = equal && found[k] == expected[k];
    }
    Serial.print(equal ? ", as expected, in " : ", which is WRONG, in ");
    Serial.print(took);
    Serial.println(" microseconds");
    delay(1000);
}
