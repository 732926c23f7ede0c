/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "proplet.h"

#include <zephyr/devicetree.h>
#include <zephyr/drivers/hwinfo.h>
#include <zephyr/drivers/watchdog.h>
#include <zephyr/fatal.h>
#include <zephyr/kernel.h>
#include <zephyr/linker/linker-defs.h>
#include <zephyr/logging/log.h>
#include <zephyr/logging/log_ctrl.h>
#include <zephyr/random/random.h>
#include <zephyr/sys/reboot.h>

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

uint64_t proplet_uptime_us(void)
{
	return k_ticks_to_us_floor64(k_uptime_ticks());
}

#ifdef CONFIG_PROPLET_BENCH
/* Not k_cycle_get_64(), which misleads on the ESP32-S3. */
uint64_t proplet_cycles(uint32_t *per_second)
{
	static uint64_t cycles;
	static uint32_t last;
	const uint32_t now = k_cycle_get_32();

	cycles += cycles == 0 ? 1 : now - last;
	last = now;
	*per_second = sys_clock_hw_cycles_per_sec();
	return cycles;
}
#endif

uint64_t proplet_busy_time(void)
{
	k_thread_runtime_stats_t stats;

	if (k_thread_runtime_stats_all_get(&stats) != 0) {
		return 0;
	}
#ifdef CONFIG_SCHED_THREAD_USAGE_ALL
	return k_cyc_to_ns_floor64(stats.total_cycles);
#else
	return k_cyc_to_ns_floor64(stats.execution_cycles);
#endif
}

uint32_t proplet_ram_total(void)
{
#ifdef CONFIG_ARCH_POSIX
	return 0;
#else
	return KB(CONFIG_SRAM_SIZE);
#endif
}

uint32_t proplet_static_ram(void)
{
#ifdef CONFIG_ARCH_POSIX
	/* The linker of the host names no image in RAM. */
	return 0;
#else
	return (uint32_t)(_image_ram_end - _image_ram_start);
#endif
}

uint32_t proplet_random(void)
{
	return sys_rand32_get();
}

#ifdef CONFIG_HWINFO
const char *proplet_reset_cause(void)
{
	uint32_t cause = 0;

	if (hwinfo_get_reset_cause(&cause) != 0) {
		return "unknown";
	}
	(void)hwinfo_clear_reset_cause();
	if (cause & RESET_WATCHDOG) {
		return "watchdog";
	}
	if (cause & RESET_BROWNOUT) {
		return "brownout";
	}
	if (cause & RESET_CPU_LOCKUP) {
		return "lockup";
	}
	if (cause & RESET_SOFTWARE) {
		return "software";
	}
	if (cause & RESET_PIN) {
		return "pin";
	}
	if (cause & RESET_POR) {
		return "power-on";
	}
	return cause == 0 ? "unknown" : "other";
}
#else
const char *proplet_reset_cause(void)
{
	return "unknown";
}
#endif

#ifdef CONFIG_PROPLET_WATCHDOG
static const struct device *const watchdog = DEVICE_DT_GET(DT_ALIAS(watchdog0));
static int channel = -1;

void proplet_watchdog_start(void)
{
	const struct wdt_timeout_cfg config = {
		.window.max = CONFIG_PROPLET_WATCHDOG_TIMEOUT_MS,
		.flags = WDT_FLAG_RESET_SOC,
	};
	int err;

	if (!device_is_ready(watchdog)) {
		LOG_ERR("the watchdog is not ready: a hang will not restart the device");
		return;
	}
	channel = wdt_install_timeout(watchdog, &config);
	err = channel < 0 ? channel : wdt_setup(watchdog, WDT_OPT_PAUSE_HALTED_BY_DBG);
	if (err == -ENOTSUP) {
		err = wdt_setup(watchdog, 0);
	}
	if (err != 0) {
		LOG_ERR("the watchdog can't be set up (%d): a hang will not restart the device",
			err);
		channel = -1;
	}
}

void proplet_watchdog_feed(void)
{
	if (channel >= 0) {
		(void)wdt_feed(watchdog, channel);
	}
}
#else
void proplet_watchdog_start(void)
{
}

void proplet_watchdog_feed(void)
{
}
#endif

void proplet_reboot(void)
{
	/* What is in the log's buffer would be lost. */
	LOG_PANIC();
	sys_reboot(SYS_REBOOT_COLD);
}

#ifdef CONFIG_PROPLET_RESTART_ON_FATAL
/* What keeps failing at boot must not wear anything out, nor hide its log. */
#define RESTART_DELAY_US 3000000

void k_sys_fatal_error_handler(unsigned int reason, const struct arch_esf *esf)
{
	ARG_UNUSED(esf);
	LOG_PANIC();
	LOG_ERR("fatal error %u: restarting", reason);
	k_busy_wait(RESTART_DELAY_US);
	sys_reboot(SYS_REBOOT_COLD);
}
#endif

uint32_t proplet_stack_unused(void)
{
	size_t unused = 0;

	(void)k_thread_stack_space_get(k_current_get(), &unused);
	return (uint32_t)unused;
}
