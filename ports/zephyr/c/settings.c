/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "proplet.h"

#include <errno.h>
#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/logging/log.h>
#include <zephyr/settings/settings.h>
#include <zephyr/storage/flash_map.h>

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

#define SUBTREE "proplet"

#ifdef CONFIG_PROPLET_TLS
#define VALUE_MAX MAX(PROPLET_VALUE_MAX, CONFIG_PROPLET_TLS_CREDENTIAL_SIZE)
#else
#define VALUE_MAX PROPLET_VALUE_MAX
#endif

/* Of the one thread that loads. */
static char value[VALUE_MAX];

struct loading {
	proplet_setting_fn each;
	void *context;
};

/* Hands over a value that no setting takes, in place of one that can't be read: without it the setting
 * would look as if it had not been stored.
 */
static int lost(const struct loading *loading, const char *name)
{
	loading->each(loading->context, name, strlen(name), "\0", 1);
	return 0;
}

static int load_one(const char *name, size_t len, settings_read_cb read, void *read_arg,
		    void *param)
{
	const struct loading *loading = param;
	ssize_t got;

	if (name == NULL) {
		return 0;
	}
	if (len > sizeof(value)) {
		LOG_ERR("the stored setting %s has %u bytes, at most %u are possible", name,
			(unsigned int)len, (unsigned int)sizeof(value));
		return lost(loading, name);
	}
	got = read(read_arg, value, sizeof(value));
	if (got < 0) {
		LOG_ERR("the stored setting %s can't be read (%d)", name, (int)got);
		return lost(loading, name);
	}
	loading->each(loading->context, name, strlen(name), value, (uint32_t)got);
	return 0;
}

static int empty_store(void)
{
#ifdef CONFIG_SETTINGS_NVS
	const struct flash_area *area;
	int err = flash_area_open(FIXED_PARTITION_ID(storage_partition), &area);

	if (err == 0) {
		err = flash_area_flatten(area, 0, area->fa_size);
		flash_area_close(area);
	}
	return err;
#else
	return -ENOTSUP;
#endif
}

int proplet_settings_load(proplet_setting_fn each, void *context)
{
	struct loading loading = {.each = each, .context = context};
	int err = settings_subsys_init();

	if (err != 0) {
		LOG_ERR("the settings' store is corrupt (%d): emptied; set them again with "
			"'proplet config set', the defaults are in force",
			err);
		err = empty_store();
		if (err == 0) {
			err = settings_subsys_init();
		}
	}
	if (err == 0) {
		err = settings_load_subtree_direct(SUBTREE, load_one, &loading);
	}
	if (err != 0) {
		LOG_ERR("no settings can be stored on this flash (%d): the defaults are in force",
			err);
	}
	return err;
}

static int key_of(const char *name, char *key, size_t key_len)
{
	if (strlen(SUBTREE) + 1 + strlen(name) >= key_len) {
		return -ENAMETOOLONG;
	}
	strcpy(key, SUBTREE "/");
	strcat(key, name);
	return 0;
}

int proplet_settings_save(const char *name, const char *text, uint32_t len)
{
	char key[SETTINGS_MAX_NAME_LEN + 1];
	int err = key_of(name, key, sizeof(key));

	return err != 0 ? err : settings_save_one(key, text, len);
}

int proplet_settings_delete(const char *name)
{
	char key[SETTINGS_MAX_NAME_LEN + 1];
	int err = key_of(name, key, sizeof(key));

	return err != 0 ? err : settings_delete(key);
}
