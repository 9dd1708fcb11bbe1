/* names.c - what activations.def and rules.def say, for callers that know names. */
#include "nnframe.h"

static const struct {
    const char *name;
    double alpha;
} activations[] = {
#define NNF_ACTIVATION(id, name, alpha) [NNF_##id] = {name, alpha},
#include "activations.def"
};

static const struct {
    const char *name;
    int m, s, k;
} rules[] = {
#define NNF_RULE(id, name, m, s, k) [NNF_##id] = {name, m, s, k},
#include "rules.def"
};

const char *nnf_activation_name(nnf_activation f) { return activations[f].name; }

double nnf_activation_alpha(nnf_activation f) { return activations[f].alpha; }

const char *nnf_rule_name(nnf_rule rule) { return rules[rule].name; }

int nnf_rule_has_m(nnf_rule rule) { return rules[rule].m; }

int nnf_rule_has_s(nnf_rule rule) { return rules[rule].s; }

int nnf_rule_has_k(nnf_rule rule) { return rules[rule].k; }
