#!/bin/sh
# Learning rates, alpha and rho, each chosen on validation accuracy with a seed of its own (100).
# sh experiments/gvr_cifar10_small/search.sh <image folder>; started again it goes on where it was stopped.
set -e
go() { # experiment, folder, overrides
    e=$1 f=$2; shift 2
    python train.py -m experiment="$e" data.root="$images" seed=100 resume=auto \
        hydra.sweep.dir="outputs/$e/search/$f" "$@"
}
images=$1
for e in gvr_cifar10_small gvr_cifar10_small_noise; do
    go $e sgd regularizer=none lr=0.01,0.02,0.05,0.1
    go $e two_view regularizer=two_view lr=0.0125,0.025,0.05
done

e=gvr_cifar10_small
go $e gvr lr=0.0125 regularizer=gvr alpha=0.01,0.1,1,10,100
go $e consistency lr=0.0125 regularizer=consistency alpha=0.3,1,3,10
go $e per_sample lr=0.0125 regularizer=gvr_per_sample alpha=0.001,0.01,0.1,1,10
go $e split lr=0.0125 regularizer=gvr_split alpha=0.01,0.1,1,10,100
go $e sam lr=0.02 regularizer=sam regularizer.wrap.rho=0.05,0.1,0.2
go $e published lr=0.0125 regularizer=gvr_published alpha=0.001,0.01,0.1,1

e=gvr_cifar10_small_noise
go $e gvr lr=0.0125 regularizer=gvr alpha=0.01,0.1,1,10
go $e consistency lr=0.0125 regularizer=consistency alpha=0.3,1,3
go $e per_sample lr=0.0125 regularizer=gvr_per_sample alpha=0.001,0.01,0.1,1
go $e split lr=0.0125 regularizer=gvr_split alpha=0.01,0.1,1,10
go $e sam lr=0.05 regularizer=sam regularizer.wrap.rho=0.05,0.1,0.2
go $e published lr=0.0125 regularizer=gvr_published alpha=0.01,0.1,1
