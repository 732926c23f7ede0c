/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pins and sensors of guests: those that the node zephyr,user of the devicetree lists, counted from 0.
 *
 *     / {
 *         zephyr,user {
 *             proplet-gpios = <&gpio0 4 GPIO_ACTIVE_HIGH>, <&gpio0 5 GPIO_ACTIVE_LOW>;
 *             proplet-sensors = <&bme280>, <&accelerometer>;
 *         };
 *     };
 */

#include "proplet.h"

#include <errno.h>

#include <zephyr/devicetree.h>
#include <zephyr/kernel.h>
#include <zephyr/random/random.h>
#include <zephyr/sys/util.h>

#define USER DT_PATH(zephyr_user)

#if defined(CONFIG_GPIO) && DT_NODE_HAS_PROP(USER, proplet_gpios)
#include <zephyr/drivers/gpio.h>
#include <zephyr/sys/atomic.h>

static const struct gpio_dt_spec pins[] = {
	DT_FOREACH_PROP_ELEM_SEP(USER, proplet_gpios, GPIO_DT_SPEC_GET_BY_IDX, (,))};

/* Which of them are outputs: what a driver does with a write to another is its own affair. */
static ATOMIC_DEFINE(outputs, ARRAY_SIZE(pins));

static int configure(const struct gpio_dt_spec *pin, uint32_t mode)
{
	int err;

	switch (mode) {
	case PROPLET_PIN_INPUT:
		return gpio_pin_configure_dt(pin, GPIO_INPUT);
	case PROPLET_PIN_PULL_UP:
		return gpio_pin_configure_dt(pin, GPIO_INPUT | GPIO_PULL_UP);
	case PROPLET_PIN_PULL_DOWN:
		return gpio_pin_configure_dt(pin, GPIO_INPUT | GPIO_PULL_DOWN);
	case PROPLET_PIN_OUTPUT:
		/* So that it reads back, where the driver can do both. */
		err = gpio_pin_configure_dt(pin, GPIO_OUTPUT_INACTIVE | GPIO_INPUT);
		return err == -ENOTSUP ? gpio_pin_configure_dt(pin, GPIO_OUTPUT_INACTIVE) : err;
	default:
		return -EINVAL;
	}
}

/* Whether there is such a pin, with a driver that has started. */
static bool is_pin(uint32_t pin)
{
	return pin < ARRAY_SIZE(pins) && gpio_is_ready_dt(&pins[pin]);
}

int proplet_gpio_configure(uint32_t pin, uint32_t mode)
{
	int err;

	if (!is_pin(pin)) {
		return -ENODEV;
	}
	err = configure(&pins[pin], mode);
	atomic_set_bit_to(outputs, pin, err == 0 && mode == PROPLET_PIN_OUTPUT);
	return err;
}

int proplet_gpio_write(uint32_t pin, bool is_high)
{
	if (!is_pin(pin)) {
		return -ENODEV;
	}
	return atomic_test_bit(outputs, pin) ? gpio_pin_set_dt(&pins[pin], is_high) : -EACCES;
}

int proplet_gpio_read(uint32_t pin)
{
	return is_pin(pin) ? gpio_pin_get_dt(&pins[pin]) : -ENODEV;
}
#else
int proplet_gpio_configure(uint32_t pin, uint32_t mode)
{
	ARG_UNUSED(pin);
	ARG_UNUSED(mode);
	return -ENODEV;
}

int proplet_gpio_write(uint32_t pin, bool is_high)
{
	ARG_UNUSED(pin);
	ARG_UNUSED(is_high);
	return -ENODEV;
}

int proplet_gpio_read(uint32_t pin)
{
	ARG_UNUSED(pin);
	return -ENODEV;
}
#endif

#if defined(CONFIG_SENSOR) && DT_NODE_HAS_PROP(USER, proplet_sensors)
#include <zephyr/drivers/sensor.h>

/* It goes before the workers, whose guests wait for it, and after the threads that serve people. */
BUILD_ASSERT(CONFIG_PROPLET_BOARD_PRIORITY < CONFIG_PROPLET_WORKER_PRIORITY,
	     "CONFIG_PROPLET_BOARD_PRIORITY must be above (a lower number than) the workers'");
BUILD_ASSERT(CONFIG_PROPLET_BOARD_PRIORITY > CONFIG_MAIN_THREAD_PRIORITY,
	     "CONFIG_PROPLET_BOARD_PRIORITY must be below the control thread's");

#define SENSOR(node, property, index) DEVICE_DT_GET(DT_PHANDLE_BY_IDX(node, property, index))

static const struct device *const sensors[] = {
	DT_FOREACH_PROP_ELEM_SEP(USER, proplet_sensors, SENSOR, (,))};

/* Zephyr's channel for each of the guest's, and how many of the guest's unit make one of Zephyr's. */
static const struct {
	enum sensor_channel channel;
	int32_t scale;
} channels[] = {
	[PROPLET_CHANNEL_TEMPERATURE] = {SENSOR_CHAN_AMBIENT_TEMP, 1},
	[PROPLET_CHANNEL_HUMIDITY] = {SENSOR_CHAN_HUMIDITY, 1},
	/* Kilopascals here, pascals there. */
	[PROPLET_CHANNEL_PRESSURE] = {SENSOR_CHAN_PRESS, 1000},
	[PROPLET_CHANNEL_LIGHT] = {SENSOR_CHAN_LIGHT, 1},
	[PROPLET_CHANNEL_ACCELERATION_X] = {SENSOR_CHAN_ACCEL_X, 1},
	[PROPLET_CHANNEL_ACCELERATION_Y] = {SENSOR_CHAN_ACCEL_Y, 1},
	[PROPLET_CHANNEL_ACCELERATION_Z] = {SENSOR_CHAN_ACCEL_Z, 1},
	[PROPLET_CHANNEL_VOLTAGE] = {SENSOR_CHAN_VOLTAGE, 1},
};

/* Not every driver expects more than one thread, and all may take their time: this one alone reads
   sensors. Its stack is in .noinit, as the workers' are. */
static K_THREAD_STACK_DEFINE(board_stack, CONFIG_PROPLET_BOARD_STACK_SIZE);
static struct k_thread board;
static K_SEM_DEFINE(wanted, 0, 1);

static void serve(void *measure, void *unused1, void *unused2)
{
	ARG_UNUSED(unused1);
	ARG_UNUSED(unused2);
	for (;;) {
		(void)k_sem_take(&wanted, K_FOREVER);
		((proplet_board_fn)measure)();
	}
}

void proplet_board_start(proplet_board_fn measure)
{
	k_tid_t thread = k_thread_create(&board, board_stack, K_THREAD_STACK_SIZEOF(board_stack),
					 serve, (void *)measure, NULL, NULL,
					 CONFIG_PROPLET_BOARD_PRIORITY, 0, K_NO_WAIT);

	(void)k_thread_name_set(thread, "board");
}

bool proplet_board_wake(void)
{
	k_sem_give(&wanted);
	return true;
}

static int measure(const struct device *sensor, enum sensor_channel channel,
		   struct sensor_value *value)
{
	int err = sensor_sample_fetch(sensor);

	if (err == 0) {
		err = sensor_channel_get(sensor, channel, value);
		/* It has other channels. */
		err = err == -ENOTSUP ? -ENODEV : err;
	}
	return err;
}

int proplet_sensor_read(uint32_t sensor, uint32_t channel, int64_t *micro)
{
	struct sensor_value value;
	int err;

	if (sensor >= ARRAY_SIZE(sensors) || channel >= ARRAY_SIZE(channels)) {
		return -ENODEV;
	}
	if (!device_is_ready(sensors[sensor])) {
		return -EIO;
	}
	err = measure(sensors[sensor], channels[channel].channel, &value);
	if (err == 0) {
		*micro = sensor_value_to_micro(&value) * channels[channel].scale;
	}
	return err;
}
#else
void proplet_board_start(proplet_board_fn measure)
{
	ARG_UNUSED(measure);
}

bool proplet_board_wake(void)
{
	return false;
}

int proplet_sensor_read(uint32_t sensor, uint32_t channel, int64_t *micro)
{
	ARG_UNUSED(sensor);
	ARG_UNUSED(channel);
	ARG_UNUSED(micro);
	return -ENODEV;
}
#endif

void proplet_random_fill(void *to, uint32_t len)
{
#ifdef CONFIG_CSPRNG_ENABLED
	if (sys_csrand_get(to, len) == 0) {
		return;
	}
#endif
	sys_rand_get(to, len);
}
