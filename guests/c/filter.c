/*
 * A filter for a noisy sensor, as a guest that keeps state: the mean of the middle half of the last
 * 64 samples, which no spike moves. guests/rust computes the same.
 *
 *     clang --config=guests/c/wasm.cfg guests/c/filter.c -o filter.wasm
 *
 * wasm.cfg says what makes it small in WAMR.
 */

#define EXPORT(name) __attribute__((export_name(name)))

#define LENGTH 64u

/* A ring: the next sample goes to window[next]. Only the first `count` are samples. */
static int window[LENGTH];
static unsigned next, count;

/* Takes a sample; returns the mean, towards zero, of those that are left of the last 64 (or fewer,
   at the start) without the lowest and the highest quarter. */
EXPORT("push") int push(int sample)
{
    window[next] = sample;
    next = (next + 1) % LENGTH;
    if (count < LENGTH)
        count++;

    int sorted[LENGTH];
    for (unsigned i = 0; i < count; i++) {
        unsigned place = i;
        for (; place > 0 && sorted[place - 1] > window[i]; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = window[i];
    }

    unsigned cut = count / 4;
    long long sum = 0;
    for (unsigned i = cut; i < count - cut; i++)
        sum += sorted[i];
    return (int)(sum / (int)(count - 2 * cut));
}

/* Pushes that many samples of a sawtooth with noise and a spike in every 16th; returns FNV-1a over
   what comes out, taken as words. */
EXPORT("main") int run(int samples)
{
    unsigned noise = 1, hash = 0x811c9dc5;
    for (int i = 0; i < samples; i++) {
        noise = noise * 1664525 + 1013904223;
        int sample = 8 * (i % 256) + (int)(noise >> 24) - 128;
        if (i % 16 == 15)
            sample += 1000000;
        hash = (hash ^ (unsigned)push(sample)) * 0x01000193;
    }
    return (int)hash;
}
