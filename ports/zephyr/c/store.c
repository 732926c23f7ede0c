/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The flash partition of the module store.
 */

#include "proplet.h"

#include <zephyr/devicetree.h>
#include <zephyr/storage/flash_map.h>

#define FLASH_NODE DT_MEM_FROM_FIXED_PARTITION(DT_NODELABEL(modules_partition))

BUILD_ASSERT(CONFIG_PROPLET_STORE_PAGE_SIZE % DT_PROP(FLASH_NODE, erase_block_size) == 0,
	     "CONFIG_PROPLET_STORE_PAGE_SIZE is no multiple of the flash's erase-block-size");
BUILD_ASSERT(PROPLET_STORE_WORD % DT_PROP(FLASH_NODE, write_block_size) == 0,
	     "the flash's write-block-size does not divide PROPLET_STORE_WORD");
BUILD_ASSERT(FIXED_PARTITION_SIZE(modules_partition) % CONFIG_PROPLET_STORE_PAGE_SIZE == 0,
	     "modules_partition is no multiple of CONFIG_PROPLET_STORE_PAGE_SIZE");

static const struct flash_area *area;

uint32_t proplet_store_len(void)
{
	return FIXED_PARTITION_SIZE(modules_partition);
}

int proplet_store_open(void)
{
	return flash_area_open(FIXED_PARTITION_ID(modules_partition), &area);
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
