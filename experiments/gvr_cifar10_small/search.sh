#!/bin/sh
# Learning rates, alpha and rho, each chosen on validation accuracy with a seed of its own (100).
# sh experiments/gvr_cifar10_small/search.sh <image folder>; started again it goes on where it was stopped.
set -e
go() { # folder, overrides
    f=$1; shift
    python train.py -m experiment="$e" data.root="$images" seed=100 resume=auto \
        hydra.sweep.dir="outputs/$e/search/$f" "$@"
}
images=$1

e=gvr_cifar10_small
go sgd regularizer=none lr=0.01,0.02,0.05,0.1
go two_view regularizer=two_view lr=0.00625,0.0125,0.025,0.05
go gvr lr=0.0125 regularizer=gvr alpha=0.01,0.1,1,10,100
go consistency lr=0.0125 regularizer=consistency alpha=0.3,1,3,10
go per_sample lr=0.0125 regularizer=gvr_per_sample alpha=0.001,0.01,0.1,1,10
go split lr=0.0125 regularizer=gvr_split alpha=0.01,0.1,1,10,100
go published lr=0.0125 regularizer=gvr_published alpha=0.001,0.01,0.1,1
go sam lr=0.02 regularizer=sam regularizer.wrap.rho=0.05,0.1,0.2

e=gvr_cifar10_small_noise
go sgd regularizer=none lr=0.005,0.01,0.02,0.05,0.1
go two_view regularizer=two_view lr=0.003125,0.00625,0.0125,0.025,0.05
go gvr lr=0.0125 regularizer=gvr alpha=0.01,0.1,1,10
go gvr_lower lr=0.00625 regularizer=gvr alpha=0.1,1,3
go consistency lr=0.0125 regularizer=consistency alpha=0.3,1,3
go consistency_lower lr=0.00625 regularizer=consistency alpha=1,3
go per_sample lr=0.0125 regularizer=gvr_per_sample alpha=0.001,0.01,0.1,1
go per_sample_lower lr=0.00625 regularizer=gvr_per_sample alpha=0.001,0.01
go split lr=0.0125 regularizer=gvr_split alpha=0.01,0.1,1,10
go split_lower lr=0.00625 regularizer=gvr_split alpha=0.01,0.1
go published lr=0.0125 regularizer=gvr_published alpha=0.01,0.1,1
go published_lower lr=0.00625 regularizer=gvr_published alpha=0.01,0.1
go sam lr=0.01 regularizer=sam regularizer.wrap.rho=0.05,0.1
go sam_larger lr=0.05 regularizer=sam regularizer.wrap.rho=0.05,0.1,0.2
