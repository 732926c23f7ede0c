/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Sockets for the control thread, which never blocks but in proplet_net_wait, and the dialer: the
 * thread that resolves names, connects and shakes hands.
 */

#include "proplet.h"

#include <errno.h>
#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/logging/log.h>
#include <zephyr/net/net_if.h>
/* It names net_if.h's types. */
#include <zephyr/net/dhcpv4.h>
#include <zephyr/net/socket.h>
#include <zephyr/zvfs/eventfd.h>
#ifdef CONFIG_PROPLET_TLS
#include <zephyr/net/tls_credentials.h>
#endif

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

#ifdef CONFIG_DNS_RESOLVER
BUILD_ASSERT(CONFIG_DNS_RESOLVER_MAX_NAME_LEN >= PROPLET_HOST_MAX,
	     "CONFIG_DNS_RESOLVER_MAX_NAME_LEN is less than a broker's name may have");
#endif

static int wake_fd = -1;

void proplet_net_wake(void)
{
	/* Fails only when it has been set 2^64 - 1 times, and then it is set. */
	(void)zvfs_eventfd_write(wake_fd, 1);
}

static short to_poll(uint32_t events)
{
	return ((events & PROPLET_READ) ? ZSOCK_POLLIN : 0)
	       | ((events & PROPLET_WRITE) ? ZSOCK_POLLOUT : 0);
}

void proplet_net_wait(const struct proplet_wait *waits, uint32_t count, int32_t timeout_ms)
{
	struct zsock_pollfd fds[1 + PROPLET_WAITS_MAX] = {{.fd = wake_fd, .events = ZSOCK_POLLIN}};
	uint32_t i;

	for (i = 0; i < MIN(count, PROPLET_WAITS_MAX); i++) {
		fds[1 + i].fd = waits[i].fd;
		fds[1 + i].events = to_poll(waits[i].events);
	}
	if (zsock_poll(fds, 1 + i, timeout_ms) < 0) {
		/* A socket that the peer has torn down: reading it tells why. No spinning. */
		k_sleep(K_MSEC(1));
	}
	if (fds[0].revents & ZSOCK_POLLIN) {
		zvfs_eventfd_t value;

		(void)zvfs_eventfd_read(wake_fd, &value);
	}
}

int proplet_net_read(int32_t fd, void *buf, uint32_t len)
{
	ssize_t got = zsock_recv(fd, buf, len, ZSOCK_MSG_DONTWAIT);

	return got < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : (int)got;
}

int proplet_net_write(int32_t fd, const void *buf, uint32_t len)
{
	ssize_t put = zsock_send(fd, buf, len, ZSOCK_MSG_DONTWAIT);

	return put < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : (int)put;
}

void proplet_net_close(int32_t fd)
{
	(void)zsock_close(fd);
}

/* The request, which belongs to the dialer while it is BUSY and to the control thread otherwise. */
static struct {
	enum { IDLE, BUSY, DONE } state;
	bool abandoned;
	bool resolve;
	bool tls;
	char host[PROPLET_HOST_MAX + 1];
	struct proplet_address address;
	int result;
	uint32_t tls_flags;
} request;

static struct k_spinlock request_lock;
static K_SEM_DEFINE(requested, 0, 1);
static K_THREAD_STACK_DEFINE(dialer_stack, CONFIG_PROPLET_DIALER_STACK_SIZE);
static struct k_thread dialer_thread;

static socklen_t to_sockaddr(const struct proplet_address *from, struct sockaddr_storage *to)
{
	memset(to, 0, sizeof(*to));
#ifdef CONFIG_NET_IPV6
	if (from->family == PROPLET_IPV6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;

		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(from->port);
		memcpy(&in6->sin6_addr, from->bytes, sizeof(in6->sin6_addr));
		return sizeof(*in6);
	}
#endif
	if (from->family != PROPLET_IPV4) {
		return 0;
	}
	struct sockaddr_in *in = (struct sockaddr_in *)to;

	in->sin_family = AF_INET;
	in->sin_port = htons(from->port);
	memcpy(&in->sin_addr, from->bytes, sizeof(in->sin_addr));
	return sizeof(*in);
}

static bool from_sockaddr(const struct sockaddr *from, struct proplet_address *to)
{
#ifdef CONFIG_NET_IPV6
	if (from->sa_family == AF_INET6) {
		to->family = PROPLET_IPV6;
		memcpy(to->bytes, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
		return true;
	}
#endif
	if (from->sa_family != AF_INET) {
		return false;
	}
	to->family = PROPLET_IPV4;
	memcpy(to->bytes, &((const struct sockaddr_in *)from)->sin_addr, 4);
	return true;
}

static int resolve(void)
{
	const struct zsock_addrinfo hints = {
#ifndef CONFIG_NET_IPV6
		.ai_family = AF_INET,
#endif
		.ai_socktype = SOCK_STREAM,
	};
	struct zsock_addrinfo *found = NULL;
	int err = zsock_getaddrinfo(request.host, NULL, &hints, &found);
	bool usable = false;

	if (err != 0 || found == NULL) {
		return -ENOENT;
	}
	for (const struct zsock_addrinfo *at = found; at != NULL && !usable; at = at->ai_next) {
		usable = from_sockaddr(at->ai_addr, &request.address);
	}
	zsock_freeaddrinfo(found);
	return usable ? 0 : -ENOENT;
}

#ifdef CONFIG_PROPLET_TLS
static const sec_tag_t tags[] = {PROPLET_TLS_TAG};

struct mbedtls_x509_crt;

/* Keeps the faults of the peer's certificates: Zephyr forgets them when the handshake fails. */
static int note_flags(void *context, struct mbedtls_x509_crt *certificate, int depth,
		      uint32_t *flags)
{
	ARG_UNUSED(context);
	ARG_UNUSED(certificate);
	ARG_UNUSED(depth);
	request.tls_flags |= *flags;
	return 0;
}

static int tls_socket(int family)
{
	const struct tls_cert_verify_cb verify = {.cb = note_flags};
	const int required = TLS_PEER_VERIFY_REQUIRED;
	int fd = zsock_socket(family, SOCK_STREAM, IPPROTO_TLS_1_2);

	if (fd < 0) {
		return fd;
	}
	if (zsock_setsockopt(fd, SOL_TLS, TLS_SEC_TAG_LIST, tags, sizeof(tags)) < 0
	    || zsock_setsockopt(fd, SOL_TLS, TLS_CERT_VERIFY_CALLBACK, &verify, sizeof(verify)) < 0
	    || zsock_setsockopt(fd, SOL_TLS, TLS_PEER_VERIFY, &required, sizeof(required)) < 0
	    || zsock_setsockopt(fd, SOL_TLS, TLS_HOSTNAME, request.host, strlen(request.host) + 1)
		       < 0) {
		int err = errno;

		(void)zsock_close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

#else
static int tls_socket(int family)
{
	ARG_UNUSED(family);
	errno = ENOTSUP;
	return -1;
}
#endif

static int dial(void)
{
	struct sockaddr_storage to;
	socklen_t len = to_sockaddr(&request.address, &to);
	const int on = 1;
	int fd;

	if (len == 0) {
		return -EAFNOSUPPORT;
	}
	fd = request.tls ? tls_socket(to.ss_family)
			 : zsock_socket(to.ss_family, SOCK_STREAM, IPPROTO_TCP);
	if (fd < 0) {
		return -errno;
	}
	if (zsock_connect(fd, (const struct sockaddr *)&to, len) < 0) {
		int err = errno;

		(void)zsock_close(fd);
		return err == 0 ? -ECONNABORTED : -err;
	}
	/* A stack without the option sends at once anyway. */
	(void)zsock_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void dialer(void *a, void *b, void *c)
{
	ARG_UNUSED(a);
	ARG_UNUSED(b);
	ARG_UNUSED(c);
	while (true) {
		(void)k_sem_take(&requested, K_FOREVER);
		int result = request.resolve ? resolve() : dial();
		k_spinlock_key_t key = k_spin_lock(&request_lock);
		bool abandoned = request.abandoned;

		request.result = result;
		request.state = abandoned ? IDLE : DONE;
		k_spin_unlock(&request_lock, key);
		if (abandoned && !request.resolve && result >= 0) {
			proplet_net_close(result);
		}
		proplet_net_wake();
	}
}

#if !defined(CONFIG_NET_SOCKETS_OFFLOAD) && !defined(CONFIG_PROPLET_WIFI)
/* A wired interface, which has no state machine: the kernel's DHCP client does it all. */
static void start_wired(void)
{
	struct net_if *iface = net_if_get_default();

	if (iface == NULL) {
		LOG_ERR("there is no network interface: check the board's devicetree");
		return;
	}
#ifdef CONFIG_NET_DHCPV4
	net_dhcpv4_start(iface);
#endif
}

bool proplet_net_is_up(void)
{
	struct net_if *iface = net_if_get_default();

	return iface != NULL && net_if_ipv4_get_global_addr(iface, NET_ADDR_PREFERRED) != NULL;
}
#else
static void start_wired(void)
{
}

bool proplet_net_is_up(void)
{
	return true;
}
#endif

int proplet_net_start(void)
{
	wake_fd = zvfs_eventfd(0, ZVFS_EFD_NONBLOCK);
	if (wake_fd < 0) {
		return -errno;
	}
	(void)k_thread_create(&dialer_thread, dialer_stack, K_THREAD_STACK_SIZEOF(dialer_stack),
			      dialer, NULL, NULL, NULL, CONFIG_PROPLET_DIALER_PRIORITY, 0,
			      K_NO_WAIT);
	(void)k_thread_name_set(&dialer_thread, "dialer");
	start_wired();
	return 0;
}

/* Whether the control thread may fill the request. */
static bool is_idle(void)
{
	k_spinlock_key_t key = k_spin_lock(&request_lock);
	bool idle = request.state == IDLE;

	k_spin_unlock(&request_lock, key);
	return idle;
}

static void submit(void)
{
	request.abandoned = false;
	request.tls_flags = 0;
	request.state = BUSY;
	k_sem_give(&requested);
}

int proplet_net_resolve(const char *host)
{
	if (!is_idle()) {
		return -EBUSY;
	}
	if (strlen(host) >= sizeof(request.host)) {
		return -ENAMETOOLONG;
	}
	strcpy(request.host, host);
	request.resolve = true;
	submit();
	return 0;
}

int proplet_net_connect(const struct proplet_address *to, const char *tls_host)
{
	if (!is_idle()) {
		return -EBUSY;
	}
	if (tls_host != NULL && strlen(tls_host) >= sizeof(request.host)) {
		return -ENAMETOOLONG;
	}
	strcpy(request.host, tls_host != NULL ? tls_host : "");
	request.address = *to;
	request.resolve = false;
	request.tls = tls_host != NULL;
	submit();
	return 0;
}

int proplet_net_poll(struct proplet_address *address, uint32_t *tls_flags)
{
	k_spinlock_key_t key = k_spin_lock(&request_lock);
	bool done = request.state == DONE;

	if (done) {
		request.state = IDLE;
	}
	k_spin_unlock(&request_lock, key);
	if (!done) {
		return -EINPROGRESS;
	}
	*address = request.address;
	*tls_flags = request.tls_flags;
	return request.result;
}

void proplet_net_abandon(void)
{
	struct proplet_address address;
	uint32_t tls_flags;
	int result;
	k_spinlock_key_t key = k_spin_lock(&request_lock);

	request.abandoned = request.state == BUSY;
	k_spin_unlock(&request_lock, key);
	if (request.abandoned) {
		return;
	}
	result = proplet_net_poll(&address, &tls_flags);
	if (result >= 0 && !request.resolve) {
		proplet_net_close(result);
	}
}
