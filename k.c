#include <math.h>
void f(const float*x,float*y,int n){for(int i=0;i<n;i++)y[i]=sinf(x[i])*x[i];}
