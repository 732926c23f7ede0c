/*
 * A weather station: measures, publishes, sleeps, and says what it has measured. guests/rust/station
 * does the same. It asks for PROPLET_CAPS=timer,time,publish,sensor, and takes the variables TOPIC
 * (station/temperature if not set) and PERIOD_MS (1000).
 *
 *     clang --config=guests/c/wasm.cfg guests/c/station.c -o station.wasm
 */

#include "proplet.h"

#define TEXT(literal) literal, sizeof(literal) - 1

/* Microdegrees as degrees, with six decimals. Returns the length, at most 22. */
static uint32_t decimal(int64_t micro, char *to)
{
    uint64_t value = micro < 0 ? -(uint64_t)micro : (uint64_t)micro;
    char digits[21];
    uint32_t count = 0, len = 0;

    /* From the last one, with at least one before the point. */
    while (value > 0 || count < 8) {
        if (count == 6)
            digits[count++] = '.';
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    }
    if (micro < 0)
        to[len++] = '-';
    while (count > 0)
        to[len++] = digits[--count];
    return len;
}

/* A variable as a number; or `otherwise` if it is not set, or is none. */
static uint32_t number(const char *key, uint32_t key_len, uint32_t otherwise)
{
    char text[8];
    int32_t len = proplet_get_env(key, key_len, text, sizeof(text));
    uint32_t value = 0;

    if (len <= 0 || len > (int32_t)sizeof(text))
        return otherwise;
    for (int32_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return otherwise;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    return value;
}

/* Publishes that many measurements, one a period; returns how many there were. The result is their
   mean. */
PROPLET_EXPORT(main) int run(int count)
{
    static char topic[64] = "station/temperature";
    int32_t topic_len = proplet_get_env(TEXT("TOPIC"), topic, sizeof(topic));
    int64_t sum = 0;
    int measured = 0;
    char text[24];

    if (topic_len < 0)
        topic_len = sizeof("station/temperature") - 1;
    if (topic_len > (int32_t)sizeof(topic)) {
        proplet_log(PROPLET_ERROR, TEXT("TOPIC is longer than 64 bytes"));
        return 0;
    }
    proplet_timer_start(number(TEXT("PERIOD_MS"), 1000));
    for (int i = 0; i < count; i++) {
        int64_t micro;

        proplet_timer_wait();
        if (!proplet_sensor_read(0, PROPLET_AMBIENT_TEMPERATURE, &micro)) {
            proplet_log(PROPLET_WARN, TEXT("sensor 0 can't be read"));
            continue;
        }
        while (!proplet_publish(topic, (uint32_t)topic_len, text, decimal(micro, text)))
            proplet_sleep_ms(1);
        sum += micro;
        measured++;
    }
    if (measured > 0)
        proplet_publish_result(text, decimal(sum / measured, text));
    return measured;
}
