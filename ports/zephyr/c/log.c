/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "proplet.h"

#include <zephyr/logging/log.h>

#include <zephyr/sys/printk.h>

LOG_MODULE_REGISTER(proplet, CONFIG_PROPLET_LOG_LEVEL);

#ifdef CONFIG_PROPLET_BENCH
void proplet_print(const char *text)
{
	printk("%s", text);
}
#endif

/* The macros need the level as a constant. The text is copied. */
void proplet_log(uint32_t level, const char *text)
{
	switch (level) {
	case LOG_LEVEL_ERR:
		LOG_ERR("%s", text);
		break;
	case LOG_LEVEL_WRN:
		LOG_WRN("%s", text);
		break;
	case LOG_LEVEL_INF:
		LOG_INF("%s", text);
		break;
	default:
		LOG_DBG("%s", text);
		break;
	}
}
