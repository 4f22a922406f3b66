/*
 * Runs the network on one sample, again and again, and prints its class and how long it took.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif
#define NET_SCRATCH static /* its buffers are not on the stack, which is small on many boards */
#include <net.h>

SAMPLE

void setup()
{
    Serial.begin(115200);
}

void loop()
{
    const unsigned long start = micros();
    const int found = net_predict(sample);
    const unsigned long took = micros() - start;
    Serial.print("class ");
    Serial.print(found);
    Serial.print(found == expected ? ", as expected, in " : ", which is WRONG, in ");
    Serial.print(took);
    Serial.println(" microseconds");
    delay(1000);
}
