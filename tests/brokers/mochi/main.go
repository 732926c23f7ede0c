// Starts mochi-mqtt on loopback, as tests/brokers.rs wants it.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"log/slog"
	"os"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// noReceiveMaximum takes the Receive Maximum out of each CONNECT: mochi 2.7.9 does not count it
// right. It forgets a message that had to wait for an acknowledgement when it sends it, so that the
// message's own acknowledgement gives nothing back; soon nothing is sent any more.
type noReceiveMaximum struct {
	mqtt.HookBase
}

func (noReceiveMaximum) ID() string {
	return "no-receive-maximum"
}

func (noReceiveMaximum) Provides(b byte) bool {
	return b == mqtt.OnPacketRead
}

func (noReceiveMaximum) OnPacketRead(_ *mqtt.Client, packet packets.Packet) (packets.Packet, error) {
	if packet.FixedHeader.Type == packets.Connect {
		packet.Properties.ReceiveMaximum = 0
	}
	return packet, nil
}

func main() {
	plain := flag.String("tcp", "", "address for MQTT")
	secure := flag.String("tls", "", "address for MQTT over TLS")
	cert := flag.String("cert", "", "certificate, PEM")
	key := flag.String("key", "", "its key, PEM")
	users := flag.String("users", "", "file of users, YAML; without it, everybody is let in")
	counts := flag.Bool("receive-maximum", false, "heed the Receive Maximum of clients")
	flag.Parse()

	level := slog.LevelDebug
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	server := mqtt.New(&mqtt.Options{Logger: logger})
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	if *users == "" {
		must(server.AddHook(new(auth.AllowHook), nil))
	} else {
		ledger, err := os.ReadFile(*users)
		must(err)
		must(server.AddHook(new(auth.Hook), &auth.Options{Data: ledger}))
	}
	if !*counts {
		must(server.AddHook(new(noReceiveMaximum), nil))
	}
	must(server.AddListener(listeners.NewTCP(listeners.Config{ID: "plain", Address: *plain})))
	if *secure != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		must(err)
		settings := &tls.Config{Certificates: []tls.Certificate{pair}}
		must(server.AddListener(listeners.NewTCP(listeners.Config{
			ID: "tls", Address: *secure, TLSConfig: settings,
		})))
	}
	must(server.Serve())
	select {}
}
