/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The seam between C and Rust: the kernel and its subsystems as plain functions on integers and
 * pointers, and the functions of Rust that C calls. Rust's declarations are made from this file when
 * it is built (build.rs): it has no #ifdef, and numbers that both sides use are here alone. Where a
 * function can fail, it returns 0 or more on success and a negative errno otherwise.
 */

#ifndef PROPLET_H
#define PROPLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* log.c: `level` is one of LOG_LEVEL_*. */
void proplet_log(uint32_t level, const char *text);

/* To the console, at once. Both only with CONFIG_PROPLET_BENCH. */
void proplet_print(const char *text);
/* Cycles of the hardware's clock since the first call, and how many there are in a second. For one
   thread, which calls it before 2^32 of them have passed: 18 s at 240 MHz. */
uint64_t proplet_cycles(uint32_t *per_second);

/* threads.c */
typedef void (*proplet_worker_fn)(uint32_t index);

/* Starts the threads that run guests; each calls `run`, which calls proplet_worker_begun once it has
   what it needs, and otherwise comes back. Waits for all of them. False if one came back. */
bool proplet_workers_start(proplet_worker_fn run);
void proplet_worker_begun(void);
#define PROPLET_FOREVER 0xffffffffu
/* Waits until a worker is woken, but no longer than `us` microseconds, or without an end for
   PROPLET_FOREVER. */
void proplet_worker_wait(uint32_t us);
/* Lets one worker through. */
void proplet_worker_wake(void);
/* Lets the simulated time of `units` branches and calls pass. Only on native_sim. */
void proplet_worker_worked(uint32_t units);
/* Nanoseconds that this thread has run. */
uint64_t proplet_thread_time(void);

/* The largest block that malloc gives; it is never freed. */
void *proplet_arena(uint32_t *len);

/* system.c */
uint64_t proplet_uptime_us(void);
/* Nanoseconds that all threads but the idle ones have run since boot. */
uint64_t proplet_busy_time(void);
/* Bytes of RAM that are in use: static ones, but not what the arena has free. */
uint32_t proplet_static_ram(void);
uint32_t proplet_ram_total(void);
uint32_t proplet_random(void);
/* A word for the cause of the last reset; it is read once. */
const char *proplet_reset_cause(void);
void proplet_watchdog_start(void);
void proplet_watchdog_feed(void);
void proplet_reboot(void);
/* Bytes of the control thread's stack that were never used. */
uint32_t proplet_stack_unused(void);

/* board.c: -ENODEV for a pin, a sensor or a channel that the board does not offer. */
typedef void (*proplet_board_fn)(void);

/* Starts the board's thread, where the board has sensors: it calls `measure` after each
   proplet_board_wake. */
void proplet_board_start(proplet_board_fn measure);
/* False where there is no such thread. */
bool proplet_board_wake(void);
enum proplet_pin {
	PROPLET_PIN_INPUT = 0,
	PROPLET_PIN_PULL_UP = 1,
	PROPLET_PIN_PULL_DOWN = 2,
	PROPLET_PIN_OUTPUT = 3,
};
/* An output is low at first. */
int proplet_gpio_configure(uint32_t pin, uint32_t mode);
int proplet_gpio_write(uint32_t pin, bool is_high);
/* 0 or 1. */
int proplet_gpio_read(uint32_t pin);
/* Channels, with the units of docs/host-api.md. */
enum proplet_channel {
	PROPLET_CHANNEL_TEMPERATURE = 0,
	PROPLET_CHANNEL_HUMIDITY = 1,
	PROPLET_CHANNEL_PRESSURE = 2,
	PROPLET_CHANNEL_LIGHT = 3,
	PROPLET_CHANNEL_ACCELERATION_X = 4,
	PROPLET_CHANNEL_ACCELERATION_Y = 5,
	PROPLET_CHANNEL_ACCELERATION_Z = 6,
	PROPLET_CHANNEL_VOLTAGE = 7,
};

/* Millionths of the channel's unit. On the board's thread. */
int proplet_sensor_read(uint32_t sensor, uint32_t channel, int64_t *micro);
/* From the kernel's generator, the cryptographically secure one where there is one. */
void proplet_random_fill(void *to, uint32_t len);

/* net.c */
struct proplet_wait {
	int32_t fd;
	/* PROPLET_READ, PROPLET_WRITE */
	uint32_t events;
};

#define PROPLET_READ 1
#define PROPLET_WRITE 2
#define PROPLET_WAITS_MAX 3
/* Bytes of a host's name, without its NUL. */
#define PROPLET_HOST_MAX 128

/* Before anything else of net.c and of wifi.c. */
int proplet_net_start(void);
/* Whether a wired interface has an address; true where sockets are offloaded, or with Wi-Fi, whose
   state machine knows. */
bool proplet_net_is_up(void);
/* Ends a proplet_net_wait, the one under way or the next; from any thread. */
void proplet_net_wake(void);
/* Sleeps until a socket is ready, proplet_net_wake is called or the time is over. */
void proplet_net_wait(const struct proplet_wait *waits, uint32_t count, int32_t timeout_ms);
int proplet_net_read(int32_t fd, void *buf, uint32_t len);
int proplet_net_write(int32_t fd, const void *buf, uint32_t len);
void proplet_net_close(int32_t fd);

#define PROPLET_IPV4 4
#define PROPLET_IPV6 6

struct proplet_address {
	/* PROPLET_IPV4, whose address is the first four bytes, or PROPLET_IPV6 */
	uint8_t family;
	uint8_t bytes[16];
	uint16_t port;
};

/*
 * Requests that take the network's time are done on a thread of their own, one at a time: -EBUSY
 * while there is one. The end of it wakes the control thread.
 */
int proplet_net_resolve(const char *host);
/* `tls_host` is the name that the peer's certificate must have, or NULL for plain TCP. */
int proplet_net_connect(const struct proplet_address *to, const char *tls_host);
/* Faults of a peer's certificate, as MBEDTLS_X509_BADCERT_*; others may be set, too. */
#define PROPLET_CERTIFICATE_EXPIRED 0x01
#define PROPLET_CERTIFICATE_REVOKED 0x02
#define PROPLET_CERTIFICATE_OTHER_NAME 0x04
#define PROPLET_CERTIFICATE_NOT_TRUSTED 0x08
#define PROPLET_CERTIFICATE_FUTURE 0x0200
/* -EINPROGRESS, or the result of the request, which is over then: 0 with `address` set, a socket,
   or an error, with PROPLET_CERTIFICATE_* in `tls_flags` if a certificate is the reason. */
int proplet_net_poll(struct proplet_address *address, uint32_t *tls_flags);
/* Gives the request under way up. */
void proplet_net_abandon(void);

/* tls.c: `pem` is kept, and ends with a NUL that `len` counts. */
enum proplet_tls_kind {
	PROPLET_TLS_CA = 0,
	PROPLET_TLS_CERT = 1,
	PROPLET_TLS_KEY = 2,
};
/* Zephyr's tag of all of them. */
#define PROPLET_TLS_TAG 1
int proplet_tls_add(uint32_t kind, const char *pem, uint32_t len);

/* wifi.c */
enum proplet_wifi_kind {
	PROPLET_WIFI_ASSOCIATED = 0,
	PROPLET_WIFI_CONNECT_FAILED = 1,
	PROPLET_WIFI_LINK_LOST = 2,
	PROPLET_WIFI_ADDRESS = 3,
	PROPLET_WIFI_ADDRESS_LOST = 4,
	PROPLET_WIFI_AP_UP = 5,
	PROPLET_WIFI_AP_FAILED = 6,
	/* The driver refused a request; `status` is an errno. */
	PROPLET_WIFI_REFUSED = 7,
};

/* Reasons of PROPLET_WIFI_CONNECT_FAILED, as Zephyr's wifi_conn_status; others may come, too. */
enum proplet_wifi_reason {
	PROPLET_WIFI_WRONG_PASSWORD = 2,
	PROPLET_WIFI_TIMEOUT = 3,
	PROPLET_WIFI_NO_NETWORK = 4,
};

/* Bytes of a network's name and password, without their NUL. */
#define PROPLET_WIFI_SSID_MAX 32
#define PROPLET_WIFI_PSK_MAX 64

struct proplet_wifi_event {
	/* An enum proplet_wifi_kind. */
	uint32_t kind;
	int32_t status;
	uint8_t address[4];
};

/* -ENODEV without a Wi-Fi interface. Requests return before they are made. */
int proplet_wifi_start(void);
bool proplet_wifi_next(struct proplet_wifi_event *event);
int proplet_wifi_connect(const char *ssid, const char *psk);
int proplet_wifi_disconnect(void);
int proplet_wifi_dhcp(void);
int proplet_wifi_access_point(void);

/* settings.c: names come without "proplet/"; values are text without a NUL. */

/* Bytes of a stored value that is not a certificate: four keys in hexadecimal. */
#define PROPLET_VALUE_MAX 272
typedef void (*proplet_setting_fn)(void *context, const char *name, uint32_t name_len,
				   const char *value, uint32_t value_len);

/* Reads every stored setting; mends a store that can't be read by emptying it. */
int proplet_settings_load(proplet_setting_fn each, void *context);
int proplet_settings_save(const char *name, const char *value, uint32_t value_len);
int proplet_settings_delete(const char *name);

/* store.c: the flash partition of the module store. Offsets and lengths of writes are multiples of
   PROPLET_STORE_WORD, those of erasures of CONFIG_PROPLET_STORE_PAGE_SIZE. */
#define PROPLET_STORE_WORD 4
uint32_t proplet_store_len(void);
/* Before all that follow. */
int proplet_store_open(void);
int proplet_store_read(uint32_t offset, void *to, uint32_t len);
int proplet_store_write(uint32_t offset, const void *from, uint32_t len);
int proplet_store_erase(uint32_t offset, uint32_t len);

/* src/exports.rs, for shell.c, on any thread. */

/* Whether a setting takes a value; if not, `out` is filled with a text that says why. */
bool proplet_setting_check(const char *name, const char *value, uint32_t value_len, char *out,
			   uint32_t out_len);
/* Whether a value that was just stored is in force now. */
bool proplet_setting_apply(const char *name, const char *value, uint32_t value_len);
/* The name of the setting at `index`, or NULL past the last; whether its value is a secret. */
const char *proplet_setting_name(uint32_t index, bool *secret);
enum proplet_page {
	PROPLET_PAGE_STATUS = 0,
	PROPLET_PAGE_TASKS = 1,
	PROPLET_PAGE_MODULES = 2,
};
/* Asks the control thread for an enum proplet_page. `out` is lent to it until it calls
   proplet_report_done, or the question was taken back. */
void proplet_report_ask(uint32_t page, char *out, uint32_t out_len);
/* Takes the question back; false if the control thread has it already. */
bool proplet_report_retract(void);
/* Has the control thread say goodbye to the broker and restart the device. */
void proplet_ask_reboot(void);

/* shell.c: the page is written. */
void proplet_report_done(void);

/* native.c, on native_sim: settings of the command line, which go before the stored ones. */

/* Settings that a command line may have; one for each there is. */
#define PROPLET_GIVEN_MAX 64

void proplet_native_settings(proplet_setting_fn each, void *context);

#endif
