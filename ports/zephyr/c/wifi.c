/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Wi-Fi by net_mgmt. Requests go to a thread of their own, as some drivers block in them; what
 * happens comes back through a queue.
 */

#include "proplet.h"

#include <errno.h>
#include <string.h>

#include <zephyr/kernel.h>
#include <zephyr/logging/log.h>
#include <zephyr/net/net_if.h>
/* It names net_if.h's types. */
#include <zephyr/net/dhcpv4.h>
#include <zephyr/net/dhcpv4_server.h>
#include <zephyr/net/net_event.h>
#include <zephyr/net/net_mgmt.h>
#include <zephyr/net/wifi_mgmt.h>

LOG_MODULE_DECLARE(proplet, CONFIG_PROPLET_LOG_LEVEL);

BUILD_ASSERT((int)PROPLET_WIFI_WRONG_PASSWORD == (int)WIFI_STATUS_CONN_WRONG_PASSWORD);
BUILD_ASSERT((int)PROPLET_WIFI_TIMEOUT == (int)WIFI_STATUS_CONN_TIMEOUT);
BUILD_ASSERT((int)PROPLET_WIFI_NO_NETWORK == (int)WIFI_STATUS_CONN_AP_NOT_FOUND);
BUILD_ASSERT(PROPLET_WIFI_SSID_MAX == WIFI_SSID_MAX_LEN);
BUILD_ASSERT(PROPLET_WIFI_PSK_MAX == WIFI_PSK_MAX_LEN);

/* Bounds a burst; the state machine needs each kind once, and gets over what is lost by time. */
K_MSGQ_DEFINE(events, sizeof(struct proplet_wifi_event), 16, 4);

static struct net_mgmt_event_callback wifi_callback;
static struct net_mgmt_event_callback address_callback;

static void post(const struct proplet_wifi_event *event)
{
	if (k_msgq_put(&events, event, K_NO_WAIT) != 0) {
		LOG_WRN("a Wi-Fi event was lost");
	}
	proplet_net_wake();
}

static void post_status(enum proplet_wifi_kind kind, int status)
{
	const struct proplet_wifi_event event = {.kind = kind, .status = status};

	post(&event);
}

static void on_wifi(struct net_mgmt_event_callback *callback, uint64_t event, struct net_if *iface)
{
	const struct wifi_status *info = callback->info;
	int status = info != NULL ? info->status : 0;

	ARG_UNUSED(iface);
	switch (event) {
	case NET_EVENT_WIFI_CONNECT_RESULT:
		post_status(status == 0 ? PROPLET_WIFI_ASSOCIATED : PROPLET_WIFI_CONNECT_FAILED,
			    status);
		break;
	case NET_EVENT_WIFI_DISCONNECT_RESULT:
		post_status(PROPLET_WIFI_LINK_LOST, status);
		break;
	case NET_EVENT_WIFI_AP_ENABLE_RESULT:
		post_status(status == 0 ? PROPLET_WIFI_AP_UP : PROPLET_WIFI_AP_FAILED, status);
		break;
	case NET_EVENT_WIFI_AP_DISABLE_RESULT:
		post_status(PROPLET_WIFI_AP_FAILED, status);
		break;
	default:
		break;
	}
}

static void on_address(struct net_mgmt_event_callback *callback, uint64_t event,
		       struct net_if *iface)
{
	struct proplet_wifi_event bound = {.kind = PROPLET_WIFI_ADDRESS};
	const struct in_addr *address = net_if_ipv4_get_global_addr(iface, NET_ADDR_PREFERRED);

	ARG_UNUSED(callback);
	if (iface != net_if_get_wifi_sta()) {
		return;
	}
	if (event == NET_EVENT_IPV4_ADDR_DEL || address == NULL) {
		post_status(PROPLET_WIFI_ADDRESS_LOST, 0);
		return;
	}
	memcpy(bound.address, address->s4_addr, sizeof(bound.address));
	post(&bound);
}

bool proplet_wifi_next(struct proplet_wifi_event *event)
{
	return k_msgq_get(&events, event, K_NO_WAIT) == 0;
}

/* The request that the thread is to make next; a newer one takes the place of an older one. */
enum request { NONE, CONNECT, DISCONNECT, DHCP, ACCESS_POINT };

static struct {
	enum request request;
	char ssid[WIFI_SSID_MAX_LEN + 1];
	char psk[WIFI_PSK_MAX_LEN + 1];
} wanted;

static struct k_spinlock wanted_lock;
static K_SEM_DEFINE(asked, 0, 1);
static K_THREAD_STACK_DEFINE(wifi_stack, CONFIG_PROPLET_WIFI_STACK_SIZE);
static struct k_thread wifi_thread;

/* Of the thread alone: the driver may refer to it after the request. */
static char ssid[WIFI_SSID_MAX_LEN + 1];
static char psk[WIFI_PSK_MAX_LEN + 1];

static void describe(struct wifi_connect_req_params *network, const char *name,
		     const char *password)
{
	memset(network, 0, sizeof(*network));
	network->ssid = (const uint8_t *)name;
	network->ssid_length = strlen(name);
	network->psk = (const uint8_t *)password;
	network->psk_length = strlen(password);
	network->security = network->psk_length != 0 ? WIFI_SECURITY_TYPE_PSK
						     : WIFI_SECURITY_TYPE_NONE;
	network->channel = WIFI_CHANNEL_ANY;
	network->band = WIFI_FREQ_BAND_UNKNOWN;
	network->mfp = WIFI_MFP_OPTIONAL;
	network->timeout = SYS_FOREVER_MS;
}

static int connect_station(struct net_if *iface)
{
	static struct wifi_connect_req_params network;

	describe(&network, ssid, psk);
	return net_mgmt(NET_REQUEST_WIFI_CONNECT, iface, &network, sizeof(network));
}

static int serve_addresses(struct net_if *iface)
{
	struct in_addr address;
	struct in_addr netmask;

	if (net_addr_pton(AF_INET, CONFIG_PROPLET_WIFI_AP_ADDRESS, &address) != 0
	    || net_addr_pton(AF_INET, "255.255.255.0", &netmask) != 0) {
		return -EINVAL;
	}
	if (net_if_ipv4_addr_add(iface, &address, NET_ADDR_MANUAL, 0) == NULL) {
		return -ENOMEM;
	}
	net_if_ipv4_set_gw(iface, &address);
	(void)net_if_ipv4_set_netmask_by_addr(iface, &address, &netmask);
#ifdef CONFIG_NET_DHCPV4_SERVER
	int err;

	/* The first address of the pool. */
	address.s4_addr[3] += 10;
	err = net_dhcpv4_server_start(iface, &address);
	return err == -EALREADY ? 0 : err;
#else
	return 0;
#endif
}

static int start_access_point(struct net_if *station)
{
	static struct wifi_connect_req_params network;
	struct net_if *iface = net_if_get_wifi_sap();
	int err;

	if (iface == NULL) {
		iface = station;
	}
	describe(&network, CONFIG_PROPLET_WIFI_AP_SSID, CONFIG_PROPLET_WIFI_AP_PSK);
	network.band = WIFI_FREQ_BAND_2_4_GHZ;
	err = serve_addresses(iface);
	if (err != 0) {
		return err;
	}
	return net_mgmt(NET_REQUEST_WIFI_AP_ENABLE, iface, &network, sizeof(network));
}

static int make(enum request request)
{
	struct net_if *iface = net_if_get_wifi_sta();

	if (iface == NULL) {
		return -ENODEV;
	}
	switch (request) {
	case CONNECT:
		return connect_station(iface);
	case DISCONNECT:
		return net_mgmt(NET_REQUEST_WIFI_DISCONNECT, iface, NULL, 0);
	case DHCP:
		/* Not start: a lease that outlived the association would keep it from asking. */
		net_dhcpv4_restart(iface);
		return 0;
	case ACCESS_POINT:
		return start_access_point(iface);
	default:
		return 0;
	}
}

static void requester(void *a, void *b, void *c)
{
	ARG_UNUSED(a);
	ARG_UNUSED(b);
	ARG_UNUSED(c);
	while (true) {
		(void)k_sem_take(&asked, K_FOREVER);
		k_spinlock_key_t key = k_spin_lock(&wanted_lock);
		enum request request = wanted.request;

		wanted.request = NONE;
		if (request == CONNECT) {
			strcpy(ssid, wanted.ssid);
			strcpy(psk, wanted.psk);
		}
		k_spin_unlock(&wanted_lock, key);
		int err = make(request);

		if (err != 0) {
			post_status(PROPLET_WIFI_REFUSED, err < 0 ? -err : err);
		}
	}
}

static void ask(enum request request)
{
	k_spinlock_key_t key = k_spin_lock(&wanted_lock);

	wanted.request = request;
	k_spin_unlock(&wanted_lock, key);
	k_sem_give(&asked);
}

int proplet_wifi_start(void)
{
	net_mgmt_init_event_callback(&wifi_callback, on_wifi,
				     NET_EVENT_WIFI_CONNECT_RESULT
					     | NET_EVENT_WIFI_DISCONNECT_RESULT
					     | NET_EVENT_WIFI_AP_ENABLE_RESULT
					     | NET_EVENT_WIFI_AP_DISABLE_RESULT);
	net_mgmt_add_event_callback(&wifi_callback);
	net_mgmt_init_event_callback(&address_callback, on_address,
				     NET_EVENT_IPV4_ADDR_ADD | NET_EVENT_IPV4_ADDR_DEL
					     | NET_EVENT_IPV4_DHCP_BOUND);
	net_mgmt_add_event_callback(&address_callback);
	(void)k_thread_create(&wifi_thread, wifi_stack, K_THREAD_STACK_SIZEOF(wifi_stack),
			      requester, NULL, NULL, NULL, CONFIG_PROPLET_DIALER_PRIORITY, 0,
			      K_NO_WAIT);
	(void)k_thread_name_set(&wifi_thread, "wifi");
	return net_if_get_wifi_sta() != NULL ? 0 : -ENODEV;
}

int proplet_wifi_connect(const char *name, const char *password)
{
	if (strlen(name) > WIFI_SSID_MAX_LEN || strlen(password) > WIFI_PSK_MAX_LEN) {
		return -EINVAL;
	}
	k_spinlock_key_t key = k_spin_lock(&wanted_lock);

	strcpy(wanted.ssid, name);
	strcpy(wanted.psk, password);
	k_spin_unlock(&wanted_lock, key);
	ask(CONNECT);
	return 0;
}

int proplet_wifi_disconnect(void)
{
	ask(DISCONNECT);
	return 0;
}

int proplet_wifi_dhcp(void)
{
	ask(DHCP);
	return 0;
}

int proplet_wifi_access_point(void)
{
	ask(ACCESS_POINT);
	return 0;
}
