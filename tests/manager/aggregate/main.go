// Command aggregate makes a model of a round's updates as Propeller's package fl does (FedAvg): it
// reads {"updates": […]} and writes {"w": […], "b": …}, as the aggregator of Propeller's demo answers.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/absmach/propeller/pkg/fl"
)

func main() {
	var round struct {
		Updates []fl.Update `json:"updates"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&round); err != nil {
		log.Fatal("updates: ", err)
	}
	model, err := fl.NewFedAvgAggregator().Aggregate(round.Updates)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(model.Data); err != nil {
		log.Fatal(err)
	}
}
