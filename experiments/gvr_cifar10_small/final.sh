#!/bin/sh
# What the validation accuracy chose, five seeds each; the test images are scored once a run, at its end.
# sh experiments/gvr_cifar10_small/final.sh <image folder>; started again it goes on where it was stopped.
set -e
go() { # folder, overrides
    f=$1; shift
    python train.py -m experiment="$e" data.root="$images" seed=0,1,2,3,4 resume=auto \
        hydra.sweep.dir="outputs/$e/final/$f" "$@"
}
images=$1

e=gvr_cifar10_small
go sgd regularizer=none lr=0.02
go sgd_longer regularizer=none lr=0.02 epochs=40
go two_view regularizer=two_view lr=0.0125
go consistency regularizer=consistency lr=0.0125 alpha=1
go sam regularizer=sam lr=0.02 regularizer.wrap.rho=0.05
go gvr regularizer=gvr lr=0.0125 alpha=0.1
go per_sample regularizer=gvr_per_sample lr=0.0125 alpha=0.001
go split regularizer=gvr_split lr=0.0125 alpha=0.01
go published regularizer=gvr_published lr=0.0125 alpha=0.001

e=gvr_cifar10_small_noise
go sgd regularizer=none lr=0.01
go sgd_longer regularizer=none lr=0.01 epochs=40
go two_view regularizer=two_view lr=0.00625
go two_view_larger regularizer=two_view lr=0.0125  # the rate of gvr and consistency
go consistency regularizer=consistency lr=0.0125 alpha=3
go sam regularizer=sam lr=0.05 regularizer.wrap.rho=0.05
go gvr regularizer=gvr lr=0.0125 alpha=1
go per_sample regularizer=gvr_per_sample lr=0.00625 alpha=0.01
go split regularizer=gvr_split lr=0.00625 alpha=0.01
go published regularizer=gvr_published lr=0.0125 alpha=0.01
