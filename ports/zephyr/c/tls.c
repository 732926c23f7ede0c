/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "proplet.h"

#include <errno.h>

#include <mbedtls/x509.h>
#include <zephyr/net/tls_credentials.h>
#include <zephyr/toolchain.h>
#include <zephyr/sys/util.h>

BUILD_ASSERT(PROPLET_CERTIFICATE_EXPIRED == MBEDTLS_X509_BADCERT_EXPIRED);
BUILD_ASSERT(PROPLET_CERTIFICATE_REVOKED == MBEDTLS_X509_BADCERT_REVOKED);
BUILD_ASSERT(PROPLET_CERTIFICATE_OTHER_NAME == MBEDTLS_X509_BADCERT_CN_MISMATCH);
BUILD_ASSERT(PROPLET_CERTIFICATE_NOT_TRUSTED == MBEDTLS_X509_BADCERT_NOT_TRUSTED);
BUILD_ASSERT(PROPLET_CERTIFICATE_FUTURE == MBEDTLS_X509_BADCERT_FUTURE);

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
	return tls_credential_add(PROPLET_TLS_TAG, types[kind], pem, len);
}
