/*
 * What a proplet offers its guests, as module "env". docs/host-api.md is the reference: what each
 * function does, its limits, and the capabilities that a task asks for by PROPLET_CAPS.
 *
 * A call that breaks a rule traps: a pointer out of bounds, a capability that is not granted, a
 * limit. The task's error says which. Lengths are in bytes and text is UTF-8, without a zero at its
 * end unless it is said. A function that is not called is not imported.
 */

#ifndef PROPLET_GUEST_H
#define PROPLET_GUEST_H

#include <stdint.h>

#define PROPLET_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

/* A guest's export. */
#define PROPLET_EXPORT(name) __attribute__((export_name(#name)))

/*
 * Always granted.
 */

/* A copy in memory of the guest's own malloc, which it exports as "malloc", with "free": the address
   and the length go to the two pointers, a zero follows the bytes. 1; or 0 without memory for it.
   A guest without malloc has the same from proplet_get_env. Nothing is an empty copy. */
PROPLET_IMPORT(get_proplet_id)
int32_t proplet_get_proplet_id(char **id, uint32_t *len);
PROPLET_IMPORT(get_model_data)
int32_t proplet_get_model_data(char **data, uint32_t *len);
PROPLET_IMPORT(get_dataset_data)
int32_t proplet_get_dataset_data(char **data, uint32_t *len);

/* The value of a variable of the task's environment; also PROPLET_ID, MODEL_DATA and DATASET_DATA.
   Writes as much of it as `cap` holds. Its length; -1 if it is not set. */
PROPLET_IMPORT(get_env)
int32_t proplet_get_env(const char *key, uint32_t key_len, void *buf, uint32_t cap);

/* The task's input of that index from 0, as text. As proplet_get_env. */
PROPLET_IMPORT(get_input)
int32_t proplet_get_input(uint32_t index, void *buf, uint32_t cap);

/* Makes the text the task's result, in place of main's value. The last call counts. */
PROPLET_IMPORT(publish_result)
void proplet_publish_result(const char *text, uint32_t len);

enum proplet_level {
    PROPLET_ERROR = 0,
    PROPLET_WARN = 1,
    PROPLET_INFO = 2,
    PROPLET_DEBUG = 3,
    PROPLET_TRACE = 4,
};

/* A line for the proplet's log. */
PROPLET_IMPORT(log)
void proplet_log(enum proplet_level level, const char *text, uint32_t len);

/*
 * Capability "time".
 */

/* Milliseconds since the proplet's boot. */
PROPLET_IMPORT(now_ms)
int64_t proplet_now_ms(void);

PROPLET_IMPORT(sleep_ms)
void proplet_sleep_ms(uint32_t ms);

/*
 * Capability "timer": one for each task.
 */

/* Expires each `period_ms` from now on; at least 1. Takes the place of the timer before. */
PROPLET_IMPORT(timer_start)
void proplet_timer_start(uint32_t period_ms);

/* Sleeps until it has expired since the last wait. How often it has; 2 or more is too late. */
PROPLET_IMPORT(timer_wait)
uint32_t proplet_timer_wait(void);

PROPLET_IMPORT(timer_stop)
void proplet_timer_stop(void);

/*
 * Capability "random".
 */

PROPLET_IMPORT(random)
void proplet_random(void *buf, uint32_t len);

/*
 * Capability "publish".
 */

/* A message on a topic below the channel. 1 if it is taken; 0 if the one before is still on its
   way, or the rate is exceeded. */
PROPLET_IMPORT(publish)
int32_t proplet_publish(const char *topic, uint32_t topic_len, const void *payload,
                        uint32_t payload_len);

/*
 * Capability "subscribe".
 */

/* Asks for the messages of a topic filter below the channel. 1 if it is taken; 0 if not now. */
PROPLET_IMPORT(subscribe)
int32_t proplet_subscribe(const char *filter, uint32_t filter_len);

/* The next message: its topic, `*topic_len` bytes, and then its payload. The length of both, or -1
   if there is none. Where that is more than `cap`, nothing is written and the message stays. */
PROPLET_IMPORT(receive)
int32_t proplet_receive(void *buf, uint32_t cap, uint32_t *topic_len);

/*
 * Capability "gpio".
 */

enum proplet_pin_mode {
    PROPLET_INPUT = 0,
    PROPLET_INPUT_PULL_UP = 1,
    PROPLET_INPUT_PULL_DOWN = 2,
    /* Low at first. */
    PROPLET_OUTPUT = 3,
};

PROPLET_IMPORT(gpio_configure)
void proplet_gpio_configure(uint32_t pin, enum proplet_pin_mode mode);

/* High unless `level` is 0. */
PROPLET_IMPORT(gpio_write)
void proplet_gpio_write(uint32_t pin, int32_t level);

PROPLET_IMPORT(gpio_read)
int32_t proplet_gpio_read(uint32_t pin);

/*
 * Capability "sensor".
 */

enum proplet_channel {
    PROPLET_AMBIENT_TEMPERATURE = 0, /* degrees Celsius */
    PROPLET_HUMIDITY = 1,            /* percent, relative */
    PROPLET_PRESSURE = 2,            /* pascals */
    PROPLET_LIGHT = 3,               /* lux */
    PROPLET_ACCELERATION_X = 4,      /* metres per second squared */
    PROPLET_ACCELERATION_Y = 5,
    PROPLET_ACCELERATION_Z = 6,
    PROPLET_VOLTAGE = 7, /* volts */
};

/* Measures, in millionths of the channel's unit. 1; or 0 if that can't be done now. */
PROPLET_IMPORT(sensor_read)
int32_t proplet_sensor_read(uint32_t sensor, enum proplet_channel channel, int64_t *micro);

#endif
