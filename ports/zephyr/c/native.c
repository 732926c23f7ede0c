/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * native_sim: settings on the command line.
 */

#include "proplet.h"

#include <stdlib.h>
#include <string.h>

#include <zephyr/logging/log.h>
#include <zephyr/settings/settings.h>

#include <cmdline.h>
#include <nsi_host_trampolines.h>
#include <posix_native_task.h>

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

/* In the process's argument list, which stays. */
static const char *given[PROPLET_GIVEN_MAX];
static uint32_t count;
static char *last;
static bool save;

static void take(char *argv, int offset)
{
	if (count < PROPLET_GIVEN_MAX) {
		given[count++] = argv + offset;
	}
}

static void add_options(void)
{
	static struct args_struct_t options[] = {
		{.option = "set",
		 .name = "name=value",
		 .type = 's',
		 .dest = (void *)&last,
		 .call_when_found = take,
		 .descript = "A setting, as 'proplet config set' takes it; may be repeated. A value "
			     "that begins with @ names a file that has it"},
		{.is_switch = true,
		 .option = "save",
		 .type = 'b',
		 .dest = (void *)&save,
		 .descript = "Store what --set gives in the flash file"},
		ARG_TABLE_ENDMARKER};

	native_add_command_line_opts(options);
}

NATIVE_TASK(add_options, PRE_BOOT_1, 1);

static uint32_t read_file(const char *path, char *buf, uint32_t size)
{
	int fd = nsi_host_open(path, 0);
	uint32_t len = 0;
	long got;

	if (fd < 0) {
		LOG_ERR("%s can't be read", path);
		return 0;
	}
	while (len < size && (got = nsi_host_read(fd, buf + len, size - len)) > 0) {
		len += got;
	}
	(void)nsi_host_close(fd);
	return len;
}

void proplet_native_settings(proplet_setting_fn each, void *context)
{
	static char file[8192];
	char name[SETTINGS_MAX_NAME_LEN + 1];

	for (uint32_t i = 0; i < count; i++) {
		const char *equals = strchr(given[i], '=');
		const char *value = equals != NULL ? equals + 1 : "";
		uint32_t name_len = equals != NULL ? equals - given[i] : strlen(given[i]);
		uint32_t len = strlen(value);

		if (value[0] == '@') {
			len = read_file(value + 1, file, sizeof(file));
			value = file;
		}
		each(context, given[i], name_len, value, len);
		if (save && name_len < sizeof(name)) {
			int err;

			memcpy(name, given[i], name_len);
			name[name_len] = '\0';
			err = proplet_settings_save(name, value, len);
			if (err != 0) {
				LOG_ERR("%s can't be stored (%d): %s", name, err,
					err == -ENOSPC ? "the flash is full" : "see the flash's log");
			}
		}
	}
}
