/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The flash partition of the module store.
 */

#include "proplet.h"

#include <errno.h>

#include <zephyr/devicetree.h>
#include <zephyr/linker/linker-defs.h>
#include <zephyr/logging/log.h>
#include <zephyr/storage/flash_map.h>

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

#define FLASH_NODE DT_MEM_FROM_FIXED_PARTITION(DT_NODELABEL(modules_partition))

BUILD_ASSERT(CONFIG_PROPLET_STORE_PAGE_SIZE % DT_PROP(FLASH_NODE, erase_block_size) == 0,
	     "CONFIG_PROPLET_STORE_PAGE_SIZE is no multiple of the flash's erase-block-size");
BUILD_ASSERT(PROPLET_STORE_WORD % DT_PROP(FLASH_NODE, write_block_size) == 0,
	     "the flash's write-block-size does not divide PROPLET_STORE_WORD");
BUILD_ASSERT(FIXED_PARTITION_SIZE(modules_partition) % CONFIG_PROPLET_STORE_PAGE_SIZE == 0,
	     "modules_partition is no multiple of CONFIG_PROPLET_STORE_PAGE_SIZE");

static const struct flash_area *area;

/* Whether the image lies in the partition: without MCUboot it may have all of flash. */
static bool is_taken(void)
{
#if defined(CONFIG_CPU_CORTEX_M) && defined(CONFIG_XIP)
	uint32_t end = CONFIG_FLASH_LOAD_OFFSET + (uint32_t)(uintptr_t)_flash_used;

	if (DT_SAME_NODE(FLASH_NODE, DT_CHOSEN(zephyr_flash))
	    && end > FIXED_PARTITION_OFFSET(modules_partition)) {
		LOG_ERR("the image ends at 0x%x, within modules_partition: move the partition in "
			"an overlay",
			end);
		return true;
	}
#endif
	return false;
}

uint32_t proplet_store_len(void)
{
	return FIXED_PARTITION_SIZE(modules_partition);
}

int proplet_store_open(void)
{
	return is_taken() ? -EBUSY
			  : flash_area_open(FIXED_PARTITION_ID(modules_partition), &area);
}

int proplet_store_read(uint32_t offset, void *to, uint32_t len)
{
	return flash_area_read(area, offset, to, len);
}

int proplet_store_write(uint32_t offset, const void *from, uint32_t len)
{
	return flash_area_write(area, offset, from, len);
}

int proplet_store_erase(uint32_t offset, uint32_t len)
{
	return flash_area_erase(area, offset, len);
}
