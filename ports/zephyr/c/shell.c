/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The command `proplet` of the shell.
 */

#include "proplet.h"

#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/shell/shell.h>

/* Commands run one at a time, on the shell's thread. */
static char text[CONFIG_PROPLET_SHELL_TEXT_SIZE];

static K_SEM_DEFINE(reported, 0, 1);

void proplet_report_done(void)
{
	k_sem_give(&reported);
}

static bool report(enum proplet_page page)
{
	k_sem_reset(&reported);
	proplet_report_ask(page, text, sizeof(text));
	if (k_sem_take(&reported, K_SECONDS(3)) == 0) {
		return true;
	}
	if (proplet_report_retract()) {
		return false;
	}
	/* It is being written. */
	(void)k_sem_take(&reported, K_FOREVER);
	return true;
}

static int show(const struct shell *sh, enum proplet_page page)
{
	if (!report(page)) {
		shell_error(sh, "the control thread does not answer: see the log");
		return -ETIMEDOUT;
	}
	/* A line at a time: the shell ends its lines itself. */
	for (char *line = text; *line != '\0';) {
		char *end = strchr(line, '\n');

		if (end != NULL) {
			*end = '\0';
		}
		shell_print(sh, "%s", line);
		line = end != NULL ? end + 1 : "";
	}
	return 0;
}

static int cmd_status(const struct shell *sh, size_t argc, char **argv)
{
	ARG_UNUSED(argc);
	ARG_UNUSED(argv);
	return show(sh, PROPLET_PAGE_STATUS);
}

static int cmd_tasks(const struct shell *sh, size_t argc, char **argv)
{
	ARG_UNUSED(argc);
	ARG_UNUSED(argv);
	return show(sh, PROPLET_PAGE_TASKS);
}

static int cmd_modules(const struct shell *sh, size_t argc, char **argv)
{
	ARG_UNUSED(argc);
	ARG_UNUSED(argv);
	return show(sh, PROPLET_PAGE_MODULES);
}

struct getting {
	const struct shell *sh;
	const char *only;
	uint32_t shown;
};

static bool is_secret(const char *name, uint32_t len)
{
	const char *known;
	bool secret;

	for (uint32_t i = 0; (known = proplet_setting_name(i, &secret)) != NULL; i++) {
		if (strlen(known) == len && strncmp(known, name, len) == 0) {
			return secret;
		}
	}
	return false;
}

static void print_setting(void *context, const char *name, uint32_t name_len, const char *value,
			  uint32_t value_len)
{
	struct getting *getting = context;

	if (getting->only != NULL
	    && (strlen(getting->only) != name_len
		|| strncmp(getting->only, name, name_len) != 0)) {
		return;
	}
	getting->shown++;
	if (is_secret(name, name_len)) {
		shell_print(getting->sh, "%.*s = (set)", (int)name_len, name);
	} else {
		shell_print(getting->sh, "%.*s = %.*s", (int)name_len, name, (int)value_len, value);
	}
}

static int cmd_config_get(const struct shell *sh, size_t argc, char **argv)
{
	struct getting getting = {.sh = sh, .only = argc > 1 ? argv[1] : NULL};
	int err = proplet_settings_load(print_setting, &getting);

	if (err == 0 && getting.shown == 0) {
		shell_print(sh, getting.only != NULL ? "not set: its default is in force"
						     : "nothing is set: defaults are in force");
	}
	return err;
}

/* "\n" becomes a line break: a certificate fits a line. */
static uint32_t unescape(char *value)
{
	char *to = value;

	for (const char *from = value; *from != '\0'; from++) {
		if (from[0] == '\\' && from[1] == 'n') {
			*to++ = '\n';
			from++;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
	return to - value;
}

static int cmd_config_set(const struct shell *sh, size_t argc, char **argv)
{
	const char *name = argv[1];
	char *value = argv[2];
	uint32_t len = unescape(value);
	bool applied;
	int err;

	ARG_UNUSED(argc);
	if (!proplet_setting_check(name, value, len, text, sizeof(text))) {
		shell_error(sh, "%s", text);
		return -EINVAL;
	}
	applied = proplet_setting_apply(name, value, len);
	err = proplet_settings_save(name, value, len);
	if (err == -ENOSPC) {
		shell_error(sh, "the flash is full: nothing was stored; unset what is not needed");
	} else if (err != 0) {
		shell_error(sh, "%s can't be stored (%d)", name, err);
	} else {
		shell_print(sh, "stored; in force %s", applied ? "now" : "after 'proplet reboot'");
		return 0;
	}
	if (applied) {
		shell_print(sh, "in force until the device restarts");
	}
	return err;
}

static int cmd_config_unset(const struct shell *sh, size_t argc, char **argv)
{
	int err = proplet_settings_delete(argv[1]);

	ARG_UNUSED(argc);
	if (err != 0) {
		shell_error(sh, "%s can't be unset (%d)", argv[1], err);
	} else {
		shell_print(sh, "its default is in force after 'proplet reboot'");
	}
	return err;
}

static int cmd_reboot(const struct shell *sh, size_t argc, char **argv)
{
	ARG_UNUSED(argc);
	ARG_UNUSED(argv);
	shell_print(sh, "tasks end, results go out, then the device restarts");
	proplet_ask_reboot();
	return 0;
}

static void setting_names(size_t index, struct shell_static_entry *entry)
{
	bool secret;

	entry->syntax = proplet_setting_name(index, &secret);
	entry->handler = NULL;
	entry->help = NULL;
	entry->subcmd = NULL;
}

SHELL_DYNAMIC_CMD_CREATE(names, setting_names);

SHELL_STATIC_SUBCMD_SET_CREATE(
	config_commands,
	SHELL_CMD_ARG(get, &names, "[NAME]: what is stored; secrets are not shown", cmd_config_get,
		      1, 1),
	SHELL_CMD_ARG(set, &names, "NAME VALUE: store a setting", cmd_config_set, 3, 0),
	SHELL_CMD_ARG(unset, &names, "NAME: go back to its default", cmd_config_unset, 2, 0),
	SHELL_SUBCMD_SET_END);

SHELL_STATIC_SUBCMD_SET_CREATE(
	commands, SHELL_CMD(status, NULL, "State of the network, the broker and the arena", cmd_status),
	SHELL_CMD(tasks, NULL, "What runs, and what is deployed", cmd_tasks),
	SHELL_CMD(modules, NULL, "What is loaded, and by how many it is used", cmd_modules),
	SHELL_CMD(config, &config_commands, "Settings", NULL),
	SHELL_CMD(reboot, NULL, "Restart in good order", cmd_reboot), SHELL_SUBCMD_SET_END);

SHELL_CMD_REGISTER(proplet, &commands, "The proplet", NULL);
