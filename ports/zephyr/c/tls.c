/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "proplet.h"

#include <errno.h>

#include <zephyr/net/tls_credentials.h>
#include <zephyr/sys/util.h>

/* The one tag of net.c. */
#define TAG 1

int proplet_tls_add(uint32_t kind, const char *pem, uint32_t len)
{
	static const enum tls_credential_type types[] = {
		[PROPLET_TLS_CA] = TLS_CREDENTIAL_CA_CERTIFICATE,
		[PROPLET_TLS_CERT] = TLS_CREDENTIAL_PUBLIC_CERTIFICATE,
		[PROPLET_TLS_KEY] = TLS_CREDENTIAL_PRIVATE_KEY,
	};

	if (kind >= ARRAY_SIZE(types)) {
		return -EINVAL;
	}
	return tls_credential_add(TAG, types[kind], pem, len);
}
