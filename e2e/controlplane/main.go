// Command controlplane is a whole Kubernetes cluster in one static binary, built from the published Go modules.
//
// The part to run is selected by the program's own name (a symlink called kubectl is kubectl) or by its first argument:
//
//	controlplane kube-apiserver --etcd-servers …
//
// The version flags that the parts report come from -ldflags, see e2e/src/assets/build.rs: helm and kubectl refuse a
// server with version v0.0.0.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// What each part's own main package links in for its side effects: log formats and metrics.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	// The few CoreDNS plugins that cluster DNS needs, in the order of coreDNSPlugins.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

// A part runs as the process. args[0] is the part's name, the rest are its flags.
type part func(args []string)

var parts = map[string]part{
	"coredns":                 runCoreDNS,
	"etcd":                    etcdmain.Main,
	"kube-apiserver":          command(func() *cobra.Command { return apiserver.NewAPIServerCommand() }),
	"kube-controller-manager": command(func() *cobra.Command { return controllermanager.NewControllerManagerCommand() }),
	"kube-proxy":              command(func() *cobra.Command { return proxy.NewProxyCommand() }),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 command(func() *cobra.Command { return kubectl.NewDefaultKubectlCommand() }),
	"kubelet":                 command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

// coreDNSPlugins is the order in which CoreDNS chains the plugins that a Corefile names.
var coreDNSPlugins = []string{"bind", "errors", "cache", "kubernetes"}

func main() {
	for _, args := range [][]string{os.Args, os.Args[1:]} {
		if len(args) == 0 {
			break
		}
		if act, known := parts[filepath.Base(args[0])]; known {
			act(args)
			return
		}
	}
	fmt.Fprintf(os.Stderr, "usage: controlplane PART [FLAG]…\nparts: %s\n", strings.Join(slices.Sorted(maps.Keys(parts)), " "))
	os.Exit(2)
}

// command makes a part of a Kubernetes command. The command is built only when its part is selected, and reads its
// flags from os.Args.
func command(build func() *cobra.Command) part {
	return func(args []string) {
		os.Args = args
		os.Exit(cli.Run(build()))
	}
}

func runCoreDNS(args []string) {
	os.Args = args
	dnsserver.Directives = coreDNSPlugins
	coremain.Run()
}
