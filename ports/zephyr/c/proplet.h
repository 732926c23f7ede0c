/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * What the crate rustapp declares in src/ffi.rs: the kernel and its subsystems, as plain
 * functions on integers and pointers. Where a function can fail, it returns 0 or more on success
 * and a negative errno otherwise.
 */

#ifndef PROPLET_H
#define PROPLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* log.c: `level` is one of LOG_LEVEL_*. */
void proplet_log(uint32_t level, const char *text);

#ifdef CONFIG_PROPLET_BENCH
/* To the console, at once. */
void proplet_print(const char *text);
/* Cycles of the hardware's clock since the first call, and how many there are in a second. For one
   thread, which calls it before 2^32 of them have passed: 18 s at 240 MHz. */
uint64_t proplet_cycles(uint32_t *per_second);
#endif

/* threads.c */
typedef void (*proplet_worker_fn)(uint32_t index);

/* Starts the threads that run guests; each calls `run`, which calls proplet_worker_begun once it has
   what it needs, and otherwise comes back. Waits for all of them. False if one came back. */
bool proplet_workers_start(proplet_worker_fn run);
void proplet_worker_begun(void);
/* Waits until a worker is woken, but no longer than `us` microseconds; UINT32_MAX is for ever. */
void proplet_worker_wait(uint32_t us);
/* Lets one worker through. */
void proplet_worker_wake(void);
#ifdef CONFIG_ARCH_POSIX
/* Simulated time of so many branches and calls passes. */
void proplet_worker_worked(uint32_t units);
#endif
/* Nanoseconds that this thread has run. */
uint64_t proplet_thread_time(void);

/* The largest block that malloc gives, for ever. */
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
#define PROPLET_PIN_INPUT 0
#define PROPLET_PIN_PULL_UP 1
#define PROPLET_PIN_PULL_DOWN 2
#define PROPLET_PIN_OUTPUT 3
/* An output is low at first. */
int proplet_gpio_configure(uint32_t pin, uint32_t mode);
int proplet_gpio_write(uint32_t pin, bool is_high);
/* 0 or 1. */
int proplet_gpio_read(uint32_t pin);
/* Millionths of the channel's unit; docs/host-api.md numbers the channels. On the board's thread. */
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

/* Before anything else of net.c and of wifi.c. */
int proplet_net_start(void);
/* Whether a wired interface has an address; true where sockets are somebody else's or Wi-Fi's state
   machine knows. */
bool proplet_net_is_up(void);
/* Ends a proplet_net_wait, the one under way or the next; from any thread. */
void proplet_net_wake(void);
/* Sleeps until a socket is ready, proplet_net_wake is called or the time is over. */
void proplet_net_wait(const struct proplet_wait *waits, uint32_t count, int32_t timeout_ms);
int proplet_net_read(int32_t fd, void *buf, uint32_t len);
int proplet_net_write(int32_t fd, const void *buf, uint32_t len);
void proplet_net_close(int32_t fd);

struct proplet_address {
	/* 4 or 6 */
	uint8_t family;
	uint8_t bytes[16];
	uint16_t port;
};

/*
 * What takes the network's time is done on a thread of its own, one request at a time: -EBUSY
 * while there is one. The end of it wakes the control thread.
 */
int proplet_net_resolve(const char *host);
/* `tls_host` is the name that the peer's certificate must have, or NULL for plain TCP. */
int proplet_net_connect(const struct proplet_address *to, const char *tls_host);
/* -EINPROGRESS, or the result of the request, which is over then: 0 with `address` set, a socket,
   or an error, with what is wrong with the peer's certificate in `tls_flags`. */
int proplet_net_poll(struct proplet_address *address, uint32_t *tls_flags);
/* Nobody waits for the request under way any more. */
void proplet_net_abandon(void);

/* tls.c: `pem` is kept, and ends with a NUL that `len` counts. */
#define PROPLET_TLS_CA 0
#define PROPLET_TLS_CERT 1
#define PROPLET_TLS_KEY 2
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

struct proplet_wifi_event {
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

/* Rust, for shell.c and native.c. Each fills `out` with text that ends with a NUL and returns
   whether it is good news. Safe to call from any thread. */
bool proplet_setting_check(const char *name, const char *value, uint32_t value_len, char *out,
			   uint32_t out_len);
/* Whether a value that was just stored is in force now. */
bool proplet_setting_apply(const char *name, const char *value, uint32_t value_len);
/* Which setting comes at `index`, or NULL past the last; whether its value is a secret. */
const char *proplet_setting_name(uint32_t index, bool *secret);
/* Asks the control thread for a page: 0 status, 1 tasks, 2 modules. `out` is lent to it until it
   calls proplet_report_done, or the question was taken back. */
void proplet_report_ask(uint32_t topic, char *out, uint32_t out_len);
bool proplet_report_retract(void);
void proplet_report_done(void);
/* The control thread is to say goodbye to the broker and to restart the device. */
void proplet_ask_reboot(void);

/* native.c: settings of the command line, to be taken after the stored ones. */
void proplet_native_settings(proplet_setting_fn each, void *context);

#endif
